import math

import pytest
import torch

from ngram_mlp.models.layers import gain_of
from ngram_mlp.models.mlp import activation_layer
from runlab import UserError


@pytest.mark.parametrize("name", ["Tanh", "ReLU", "LeakyReLU", "GELU", "SELU", "SiLU", "Sigmoid", "PReLU", "Hardtanh"])
def test_non_linearities_are_torchs_by_name(name):
    assert type(activation_layer(name)) is getattr(torch.nn, name)


@pytest.mark.parametrize(
    "name", ["tanh", "Linear", "MultiheadAttention", "RReLU", "Threshold", "GLU", "Softmax", "os.system", ""]
)
def test_what_is_no_non_linearity_of_single_units_is_refused(name):
    with pytest.raises(UserError, match="is not an elementwise non-linearity"):
        activation_layer(name)


def test_gains_are_the_recommended_ones():
    assert gain_of(activation_layer("Tanh")) == 5 / 3
    assert gain_of(activation_layer("ReLU")) == pytest.approx(math.sqrt(2))
    assert gain_of(activation_layer("LeakyReLU")) == pytest.approx(math.sqrt(2 / (1 + 0.01**2)))
    assert gain_of(activation_layer("SELU")) == 0.75


@pytest.mark.parametrize("name", ["GELU", "SiLU", "Mish", "ELU"])
def test_other_gains_keep_the_second_moment_of_a_normal_input(name):
    torch.manual_seed(0)
    module = activation_layer(name)
    moment = module(torch.randn(2_000_000)).square().mean().item()
    assert gain_of(module) ** 2 * moment == pytest.approx(1, rel=5e-3)
