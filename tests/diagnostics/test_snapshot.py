import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ngram_mlp.diagnostics.snapshot import take_snapshot
from ngram_mlp.models.layers import BatchNorm, named_weights


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
    for index, name in {0: "embedding", 2: "linear1", 3: "batchnorm", 4: "tanh", 6: "linear2"}.items():
        assert snapshot.layers[name].output.equal(outputs[index])
        torch.testing.assert_close(snapshot.layers[name].gradient, outputs[index].grad)
    assert list(snapshot.nonlinearities) == ["tanh"]
    assert snapshot.nonlinearities["tanh"].input.equal(outputs[3])
    for name, parameter in named_weights(net):
        torch.testing.assert_close(snapshot.parameters[name].gradient, parameter.grad)
    assert list(snapshot.weights) == ["embedding.weight", "linear1.weight", "linear2.weight"]


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
    assert not snapshot.layers["embedding"].gradient.any()
    assert "embedding.weight" not in snapshot.parameters
    assert not snapshot.parameters["unused.weight"].gradient.any()
    assert "unused" not in snapshot.layers


def test_a_layer_that_works_in_place_is_seen_as_one_that_does_not():
    seen = []
    for inplace in (False, True):
        torch.manual_seed(0)
        layers = (nn.Embedding(27, 4), nn.Flatten(), nn.Linear(12, 20), nn.ELU(inplace=inplace), nn.Linear(20, 27))
        seen.append(take_snapshot(nn.Sequential(*layers).train(), *minibatch()))
    plain, in_place = seen
    assert plain.layers.keys() == in_place.layers.keys()
    for name, layer in plain.layers.items():
        assert in_place.layers[name].input.equal(layer.input), name
        assert in_place.layers[name].output.equal(layer.output), name
        torch.testing.assert_close(in_place.layers[name].gradient, layer.gradient)


class InPlace(nn.Module):
    """A network with a layer that works in place, called by keyword or for its effect alone."""

    def __init__(self, how):
        super().__init__()
        self.how, self.embedding, self.linear = how, nn.Embedding(27, 4), nn.Linear(12, 20)
        self.activation, self.output = nn.ReLU(inplace=True), nn.Linear(20, 27)

    def forward(self, contexts):
        x = self.linear(self.embedding(contexts).flatten(1))
        if self.how == "by keyword":
            return self.output(self.activation(input=x))
        self.activation(x)
        return self.output(x)


@pytest.mark.parametrize("how", ["by keyword", "for its effect"])
def test_a_look_is_at_the_network_that_trains_however_it_calls_its_layers(how):
    torch.manual_seed(0)
    net, (contexts, targets) = InPlace(how).train(), minibatch()
    assert take_snapshot(net, contexts, targets).loss == F.cross_entropy(net(contexts), targets).item()


def test_no_gradient_mode_of_the_caller_matters():
    with torch.no_grad():
        assert take_snapshot(network(), *minibatch()).weights["linear1.weight"].gradient.any()
