import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ngram_mlp.layers import BatchNorm
from ngram_mlp.looks import look_at


class Failing(nn.Module):
    def forward(self, x):
        raise RuntimeError("stop")


def network(*more):
    torch.manual_seed(0)
    layers = (nn.Embedding(27, 4), nn.Flatten(), nn.Linear(12, 20), BatchNorm(20), nn.Tanh(), nn.Dropout(0.3))
    return nn.Sequential(*layers, *more, nn.Linear(20, 27)).train()


def minibatch():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(27, (32, 3), generator=generator), torch.randint(27, (32,), generator=generator)


def test_a_look_is_the_very_pass_that_training_makes():
    net, (contexts, targets) = network(), minibatch()
    torch.manual_seed(5)
    look = look_at(net, contexts, targets, update=7)
    assert look.update == 7
    # The same dropout mask as the update that follows.
    outputs = []
    x = contexts
    for layer in net:
        x = layer(x)
        x.retain_grad()
        outputs.append(x)
    loss = F.cross_entropy(x, targets)
    loss.backward()
    assert look.loss == loss.item()
    assert look.logits.equal(x)
    for name in ("0", "2", "3", "4", "6"):
        index = int(name)
        assert look.layers[name].output.equal(outputs[index])
        torch.testing.assert_close(look.layers[name].gradient, outputs[index].grad)
    assert list(look.nonlinearities) == ["4"]
    assert look.nonlinearities["4"].input.equal(outputs[3])
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(look.parameters[name].gradient, parameter.grad)
    assert list(look.weights) == ["0.weight", "2.weight", "6.weight"]


@pytest.mark.parametrize("more", [[], [Failing()]], ids=["", "with an error"])
def test_it_leaves_no_trace(more):
    net, (contexts, targets) = network(*more), minibatch()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    if more:
        with pytest.raises(RuntimeError, match="stop"):
            look_at(net, contexts, targets)
    else:
        look_at(net, contexts, targets)
    assert torch.get_rng_state().equal(random)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())


def test_frozen_parameters_and_unused_layers_are_no_obstacle():
    net = network()
    net[0].weight.requires_grad = False
    net.unused = nn.Linear(3, 3)
    net.forward = lambda x: nn.Sequential.forward(net[:7], x)
    look = look_at(net, *minibatch())
    assert not look.layers["0"].gradient.any()
    assert "0.weight" not in look.parameters
    assert not look.parameters["unused.weight"].gradient.any()
    assert "unused" not in look.layers


def test_no_gradient_mode_of_the_caller_matters():
    with torch.no_grad():
        assert look_at(network(), *minibatch()).weights["2.weight"].gradient.any()
