import pytest
import torch

from ngram_mlp.layers import Initializer, embedding, linear


def test_layers_draw_weight_then_bias_in_the_notebooks_orientation():
    torch.manual_seed(3)
    table = embedding(27, 10, Initializer("normal"))
    layer = linear(30, 200, Initializer("normal", "fan_in", gain=5 / 3), Initializer("uniform", "fan_out"))
    g = torch.Generator().manual_seed(3)
    torch.testing.assert_close(table.weight, torch.randn((27, 10), generator=g), rtol=0, atol=0)
    torch.testing.assert_close(layer.weight, (torch.randn((30, 200), generator=g) * (5 / 3) / 30**0.5).T)
    torch.testing.assert_close(layer.bias, torch.rand(200, generator=g) / 200**0.5)
    assert torch.get_rng_state().equal(g.get_state())


@pytest.mark.parametrize(
    ("scale", "factor"), [("one", 1.0), ("fan_in", 1 / 8), ("fan_out", 1 / 5), ("xavier", (2 / 89) ** 0.5)]
)
def test_scales_are_those_of_the_papers(scale, factor):
    torch.manual_seed(0)
    drawn = Initializer("normal", scale, gain=2.0).draw((64, 25), 64, 25)
    torch.manual_seed(0)
    torch.testing.assert_close(drawn, torch.randn(64, 25) * 2 * factor)


def test_a_gain_of_zero_still_draws_and_a_constant_never_does():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert Initializer("constant", gain=0.5).draw((3,), 3, 3).tolist() == [0.5] * 3
    assert torch.get_rng_state().equal(before)
    assert Initializer("normal", gain=0.0).draw((3,), 3, 3).tolist() == [0.0] * 3
    expected = torch.Generator().manual_seed(0)
    torch.randn(3, generator=expected)
    assert torch.get_rng_state().equal(expected.get_state())


def test_parameters_can_be_trained():
    assert embedding(3, 2, Initializer()).weight.requires_grad
    assert linear(3, 2, Initializer(), None).weight.requires_grad
    assert linear(3, 2, Initializer(), None).bias is None
