"""What layers are called where they are shown."""

import pytest
from torch import nn

from ngram_mlp.models import MLP, BatchNormMLP, WaveNet
from ngram_mlp.models.layers import named_layers, named_weights


def test_numbered_layers_have_their_kind_and_its_number():
    inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    network = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.GELU(), inner, nn.Linear(4, 2))
    names = [name for name, _ in named_layers(network)]
    assert names == [
        *("", "embedding", "linear1", "gelu", "sequential", "sequential.linear", "sequential.tanh", "linear2"),
    ]
    weights = [name for name, _ in named_weights(network) if name.endswith("weight")]
    assert weights == [f"{name}.weight" for name in ("embedding", "linear1", "sequential.linear", "linear2")]


def test_a_name_that_somebody_has_given_stays():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network.add_module("linear1", nn.Linear(2, 2))
    assert [name for name, _ in named_layers(network)] == ["", "0", "linear2", "linear1"]


@pytest.mark.parametrize("kind", [MLP, BatchNormMLP, WaveNet])
def test_the_layers_of_this_package_keep_theirs(kind):
    network = kind(".abc", 4, n_layers=2).network if kind is not WaveNet else kind(".abc", 4).network
    assert [*named_layers(network)] == [*network.named_modules()]
    assert [name for name, _ in named_weights(network)] == [name for name, _ in network.named_parameters()]


def test_a_weight_that_is_shared_is_there_once():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    assert [name for name, _ in named_weights(network)] == ["linear1.weight", "linear1.bias", "linear2.bias"]
