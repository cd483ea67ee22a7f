import math

import pytest
import torch
from torch import nn

from ngram_mlp.diagnostics.statistics import (
    baseline_saturation,
    dead,
    density,
    is_nonlinearity,
    log10_ratio,
    mean_and_std,
    saturated,
)


def normal(*shape, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale


def test_a_tanh_is_saturated_where_its_output_is_beyond_the_threshold():
    x = normal(32, 300, scale=2.5)
    for threshold in (0.9, 0.97, 0.99):
        assert saturated(nn.Tanh(), x, threshold).equal(torch.tanh(x).abs() > threshold)


def test_other_non_linearities_are_saturated_where_their_slope_is_as_small():
    x = torch.tensor([[-9.0, -1.0, 0.5, 9.0]])
    assert saturated(nn.ReLU(), x).tolist() == [[True, True, False, False]]
    assert saturated(nn.LeakyReLU(0.1), x).tolist() == [[False, False, False, False]]
    assert saturated(nn.GELU(), x).tolist() == [[True, False, False, False]]
    assert saturated(nn.Sigmoid(), x).tolist() == [[True, False, False, True]]
    assert not x.requires_grad


def test_what_a_normal_input_saturates():
    # P(abs(z) > atanh(0.97)) of a standard normal z
    expected = math.erfc(math.atanh(0.97) / math.sqrt(2))
    assert baseline_saturation(nn.Tanh()) == pytest.approx(expected, abs=1e-3)
    assert baseline_saturation(nn.ReLU()) == pytest.approx(0.5, abs=1e-3)
    for kind in (torch.float64, torch.bfloat16):  # a non-linearity's parameters have the run's precision
        assert baseline_saturation(nn.PReLU(init=0.0, dtype=kind)) == pytest.approx(0.5, abs=1e-3)


def test_a_unit_is_dead_that_is_saturated_for_every_example():
    flat = torch.tensor([[True, True, False], [True, False, False]])
    assert dead(flat).tolist() == [True, False, False]


def test_means_and_deviations():
    x = normal(50)
    values = x.tolist()
    mean = sum(values) / 50
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / 49)
    assert mean_and_std(x) == pytest.approx((mean, std), rel=1e-5)
    assert mean_and_std(torch.tensor([2.0])) == (2.0, 0.0)


def test_ratios_of_deviations():
    x = normal(50)
    assert log10_ratio(x * 1e-3, x) == pytest.approx(-3)
    assert log10_ratio(torch.zeros(50), x) == -math.inf
    assert log10_ratio(x, torch.ones(50)) == math.inf
    assert math.isnan(log10_ratio(torch.zeros(50), torch.ones(50)))


def test_non_linearities_are_torchs_own_of_single_units():
    assert all(is_nonlinearity(module()) for module in (nn.Tanh, nn.ReLU, nn.GELU, nn.PReLU))
    assert not any(is_nonlinearity(m) for m in (nn.Linear(2, 2), nn.Softmax(1), nn.LayerNorm(2), nn.Dropout()))


@pytest.mark.parametrize("scale", [1e-12, 1e-7, 1.0, 1e7])
def test_a_density_has_all_its_bins_whatever_the_scale(scale):
    torch.manual_seed(0)
    found = density(torch.rand(10_000) * scale, 20)
    assert found["values"].gt(0).all()
    assert found["values"].mul(found["edges"].diff()).sum().item() == pytest.approx(1, rel=1e-3)
    one = density(torch.full((9,), scale))["values"]
    assert one.isfinite().all()
    assert one.gt(0).sum() == 1
