import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ngram_mlp.diagnostics.snapshot import take_snapshot
from ngram_mlp.models.layers import BatchNorm


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
    snapshot = take_snapshot(net, contexts, targets, update=7)
    assert snapshot.update == 7
    # The same dropout mask as the update that follows.
    outputs = []
    x = contexts
    for layer in net:
        x = layer(x)
        x.retain_grad()
        outputs.append(x)
    loss = F.cross_entropy(x, targets)
    loss.backward()
    assert snapshot.loss == loss.item()
    assert snapshot.logits.equal(x)
    for name in ("0", "2", "3", "4", "6"):
        index = int(name)
        assert snapshot.layers[name].output.equal(outputs[index])
        torch.testing.assert_close(snapshot.layers[name].gradient, outputs[index].grad)
    assert list(snapshot.nonlinearities) == ["4"]
    assert snapshot.nonlinearities["4"].input.equal(outputs[3])
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(snapshot.parameters[name].gradient, parameter.grad)
    assert list(snapshot.weights) == ["0.weight", "2.weight", "6.weight"]


@pytest.mark.parametrize("more", [[], [Failing()]], ids=["", "with an error"])
def test_it_leaves_no_trace(more):
    net, (contexts, targets) = network(*more), minibatch()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    if more:
        with pytest.raises(RuntimeError, match="stop"):
            take_snapshot(net, contexts, targets)
    else:
        take_snapshot(net, contexts, targets)
    assert torch.get_rng_state().equal(random)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())


def test_frozen_parameters_and_unused_layers_are_no_obstacle():
    net = network()
    net[0].weight.requires_grad = False
    net.unused = nn.Linear(3, 3)
    net.forward = lambda x: nn.Sequential.forward(net[:7], x)
    snapshot = take_snapshot(net, *minibatch())
    assert not snapshot.layers["0"].gradient.any()
    assert "0.weight" not in snapshot.parameters
    assert not snapshot.parameters["unused.weight"].gradient.any()
    assert "unused" not in snapshot.layers


def test_no_gradient_mode_of_the_caller_matters():
    with torch.no_grad():
        assert take_snapshot(network(), *minibatch()).weights["2.weight"].gradient.any()
