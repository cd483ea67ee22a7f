import pytest
import torch

from ngram_mlp.models.layers import Initialization, Initializer, embedding, linear
from runlab import UserError


def test_layers_draw_weight_then_bias_in_the_notebooks_orientation():
    torch.manual_seed(3)
    table = embedding(27, 10, "normal")
    layer = linear(30, 200, "normal * 5/3 / sqrt(fan_in)", "uniform / sqrt(fan_out)")
    g = torch.Generator().manual_seed(3)
    torch.testing.assert_close(table.weight, torch.randn((27, 10), generator=g), rtol=0, atol=0)
    torch.testing.assert_close(layer.weight, (torch.randn((30, 200), generator=g) * (5 / 3) / 30**0.5).T)
    torch.testing.assert_close(layer.bias, torch.rand(200, generator=g) / 200**0.5)
    assert torch.get_rng_state().equal(g.get_state())


@pytest.mark.parametrize(
    ("form", "factor"),
    [
        ("normal", 1.0),
        ("normal * 0.2", 0.2),
        ("normal * 5/3", 5 / 3),
        ("normal * 1e-2", 0.01),
        ("normal / sqrt(fan_in)", 1 / 8),
        ("normal / sqrt(fan_out)", 1 / 5),
        ("normal * xavier", (2 / 89) ** 0.5),
        ("normal * gain", 1.5),
        ("normal * gain / sqrt(fan_in)", 1.5 / 8),
        ("  normal *  -2 *  xavier ", -2 * (2 / 89) ** 0.5),
    ],
)
def test_a_form_scales_what_is_drawn(form, factor):
    torch.manual_seed(0)
    drawn = Initializer.parse(form).draw((64, 25), 64, 25, gain=1.5)
    torch.manual_seed(0)
    torch.testing.assert_close(drawn, torch.randn(64, 25) * factor)


def test_distributions_have_their_range():
    uniform = Initializer.parse("uniform").draw((10_000,), 1, 1)
    assert 0 <= uniform.min() < 0.01
    assert 0.99 < uniform.max() < 1
    symmetric = Initializer.parse("symmetric * 3").draw((10_000,), 1, 1)
    assert -3 <= symmetric.min() < -2.97
    assert 2.97 < symmetric.max() < 3


def test_a_factor_of_zero_still_draws_and_a_constant_never_does():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert Initializer.parse("constant * 0.5").draw((3,), 3, 3).tolist() == [0.5] * 3
    assert torch.get_rng_state().equal(before)
    assert Initializer.parse("normal * 0").draw((3,), 3, 3).tolist() == [0.0] * 3
    expected = torch.Generator().manual_seed(0)
    torch.randn(3, generator=expected)
    assert torch.get_rng_state().equal(expected.get_state())


@pytest.mark.parametrize(
    "form",
    [
        "",
        "gauss",
        "normal * ",
        "normal * x",
        "normal * 1/0",
        "normal / fan_in",
        "normal 2",
        "0.01",
        "none",
        "normal*1.2.3",
    ],
)
def test_a_form_that_cannot_be_read_is_refused_with_the_forms_that_can(form):
    with pytest.raises(UserError, match=r"hidden_weight .*normal \* 5/3 / sqrt\(fan_in\)"):
        Initialization(hidden_weight=form)


def test_parameters_can_be_trained():
    assert embedding(3, 2, "normal").weight.requires_grad
    assert linear(3, 2, "normal", "none").weight.requires_grad
    assert linear(3, 2, "normal", "none").bias is None
