import pytest
import torch

from ngram_mlp.models.layers import BatchNorm, examples_of
from ngram_mlp.models.layers.batch_norm import UnitsLastBatchNorm1d
from runlab import UserError


def activations(seed=0, shape=(32, 7)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 1


def layer(**kwargs):
    norm = BatchNorm(7, **kwargs).double()
    with torch.no_grad():
        norm.gain.copy_(activations(1, (7,)))
        norm.bias.copy_(activations(2, (7,)))
    return norm


def test_training_normalizes_by_the_unbiased_standard_deviation_of_the_minibatch():
    x, norm = activations(), layer(eps=0.1)
    y = norm(x)
    for unit in range(7):
        column = x[:, unit].tolist()
        mean = sum(column) / 32
        std = (sum((value - mean) ** 2 for value in column) / 31) ** 0.5
        expected = [norm.gain[unit].item() * (value - mean) / (std + 0.1) + norm.bias[unit].item() for value in column]
        assert y[:, unit].tolist() == pytest.approx(expected, rel=1e-12)


def test_running_estimates_are_moving_averages_that_evaluation_uses():
    norm = layer(momentum=0.25, eps=1e-3)
    mean, std = torch.zeros(7), torch.ones(7)
    for seed in range(5):
        x = activations(seed)
        norm(x)
        mean, std = 0.75 * mean + 0.25 * x.mean(0), 0.75 * std + 0.25 * x.std(0)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(norm.running_std, std, rtol=1e-12, atol=0)
    norm.eval()
    one = activations(9, (1, 7))
    torch.testing.assert_close(norm(one), norm.gain * (one - mean) / (std + 1e-3) + norm.bias)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-12, atol=0)  # evaluation moves nothing


def test_it_agrees_with_torchs_layer_once_its_biased_variance_is_accounted_for():
    x = activations().requires_grad_()
    norm = layer(eps=1e-30)
    theirs = torch.nn.BatchNorm1d(7, eps=1e-30).double()
    with torch.no_grad():  # torch divides by the biased deviation, sqrt(31 / 32) of the unbiased one
        theirs.weight.copy_(norm.gain * (31 / 32) ** 0.5)
        theirs.bias.copy_(norm.bias)
    ours, other = norm(x), theirs(x)
    torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)
    weights = activations(5)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weights).sum(), x), torch.autograd.grad((other * weights).sum(), x)
    )


def test_with_the_biased_variance_it_is_torchs_layer():
    norm, theirs = layer(momentum=0.1, statistic="var", unbiased=False), torch.nn.BatchNorm1d(7).double()
    with torch.no_grad():
        theirs.weight.copy_(norm.gain)
        theirs.bias.copy_(norm.bias)
    for seed in range(3):
        torch.testing.assert_close(norm(activations(seed)), theirs(activations(seed)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(norm.running_mean, theirs.running_mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(norm.running_var, theirs.running_var, rtol=1e-12, atol=0)
    norm.eval(), theirs.eval()
    torch.testing.assert_close(norm(activations(7)), theirs(activations(7)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("statistic", "unbiased"), [("std", True), ("std", False), ("var", True), ("var", False)])
def test_each_estimate_normalizes_as_it_says(statistic, unbiased):
    x, norm = activations(), layer(eps=0.1, statistic=statistic, unbiased=unbiased)
    spread = getattr(x, statistic)(0, unbiased=unbiased)
    divisor = spread + 0.1 if statistic == "std" else (spread + 0.1).sqrt()
    torch.testing.assert_close(norm(x), norm.gain * (x - x.mean(0)) / divisor + norm.bias)
    running = getattr(norm, f"running_{statistic}")
    torch.testing.assert_close(running, 0.999 + 0.001 * getattr(x, statistic)(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("statistic", ["std", "var"])
def test_gradients_are_right(statistic):
    x = activations(shape=(6, 7)).requires_grad_()
    norm = layer(statistic=statistic)
    assert torch.autograd.gradcheck(lambda x, gain, bias: norm(x), (x, norm.gain, norm.bias))


@pytest.mark.parametrize(("statistic", "unbiased"), [("std", True), ("std", False), ("var", True), ("var", False)])
def test_positions_are_as_good_as_examples(statistic, unbiased):
    x = activations(shape=(8, 2, 3, 7)).requires_grad_()
    norm, flat = (layer(statistic=statistic, unbiased=unbiased) for _ in range(2))
    y, expected = norm(x), flat(x.view(48, 7))
    assert y.shape == x.shape
    torch.testing.assert_close(y.view(48, 7), expected, rtol=0, atol=0)
    for name, buffer in norm.named_buffers():
        assert buffer.shape == (7,)
        assert buffer.equal(flat.get_buffer(name))
    weights = activations(5, x.shape)
    gradients = [torch.autograd.grad((out.view(x.shape) * weights).sum(), x)[0] for out in (y, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    norm.eval(), flat.eval()
    assert norm(x).view(48, 7).equal(flat(x.view(48, 7)))


@pytest.mark.parametrize("statistic", ["std", "var"])
def test_several_processes_share_the_statistics_of_all_their_positions(statistic, monkeypatch):
    whole, mine = activations(shape=(8, 3, 7)), activations(shape=(8, 3, 7))[:4]
    norm, alone = layer(statistic=statistic), layer(statistic=statistic)
    expected = alone(whole)
    sums = iter([whole.sum((0, 1)), ((whole - whole.mean((0, 1))) ** 2).sum((0, 1))])  # what the others would add up to
    monkeypatch.setattr("ngram_mlp.models.layers.batch_norm.processes", lambda: 2)
    monkeypatch.setattr("ngram_mlp.models.layers.batch_norm.total", lambda part: next(sums))
    torch.testing.assert_close(norm(mine), expected[:4], rtol=1e-10, atol=1e-10)
    for name, buffer in norm.named_buffers():
        torch.testing.assert_close(buffer, alone.get_buffer(name), rtol=1e-12, atol=1e-12)


def test_torchs_layer_is_had_with_the_units_last():
    norm, theirs = UnitsLastBatchNorm1d(7).double(), torch.nn.BatchNorm1d(7).double()
    x = activations(shape=(8, 3, 7))
    torch.testing.assert_close(norm(x), theirs(x.transpose(1, 2)).transpose(1, 2), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_var, theirs.running_var, rtol=1e-12, atol=1e-12)
    assert examples_of(x, norm).equal(x.reshape(24, 7))
    assert examples_of(x.transpose(1, 2), theirs).equal(x.reshape(24, 7))
    assert norm(x[0]).equal(torch.nn.functional.batch_norm(x[0], None, None, norm.weight, norm.bias, training=True))


@pytest.mark.parametrize("statistic", ["std", "var"])
def test_one_example_has_no_spread(statistic):
    with pytest.raises(UserError, match="batch norm has no standard deviation over 1 example"):
        BatchNorm(3, statistic=statistic)(torch.ones(1, 3))


def test_estimates_move_although_all_else_has_16_bits():
    norm = BatchNorm(3).bfloat16()
    for _ in range(100):
        norm(torch.full((8, 3), 2.0, dtype=torch.bfloat16) + torch.arange(8, dtype=torch.bfloat16)[:, None])
    assert norm.running_mean.dtype == torch.float32
    torch.testing.assert_close(norm.running_mean, torch.full((3,), 5.5 * (1 - 0.999**100)), rtol=1e-2, atol=0)
    assert norm.eval()(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
