import pytest
import torch
from torch import nn

from ngram_mlp.data import NGramDataModule, SplitBatches
from ngram_mlp.diagnostics.batch_norm_statistics import drifts, evaluating_with, measure
from ngram_mlp.models import BatchNormMLP
from ngram_mlp.models.layers import BatchNorm, BatchNormalization, batch_norms
from ngram_mlp.models.metrics import evaluate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return NGramDataModule("sample")


def trained_a_little(data, kind, **norm):
    """A three-layer model whose running estimates have moved, and are behind."""
    torch.manual_seed(1)
    norm = BatchNormalization(kind, momentum=0.1, **norm)
    model = BatchNormMLP(data.vocabulary, 3, n_hidden=20, n_layers=3, batch_norm=norm).train()
    for _ in range(10):
        model(data.splits["train"].contexts[torch.randint(0, 1000, (32,))].long())
    return model


@pytest.mark.parametrize("norm", [("batch",), ("batch", "var"), ("BatchNorm1d",)], ids=str)
def test_measured_statistics_are_those_of_the_whole_split_layer_by_layer(data, norm):
    model = trained_a_little(data, norm[0], statistic=norm[-1] if len(norm) > 1 else "std")
    split = data.splits["val"]
    measured = measure(model.network, SplitBatches(split, 1000), CPU)
    assert model.network.training
    assert list(measured) == ["hidden1.norm", "hidden2.norm", "hidden3.norm"]

    x = model.network.embedding(split.contexts.long()).flatten(1)
    for hidden, (mean, std) in zip(list(model.network)[2:5], measured.values(), strict=True):
        x = hidden.linear(x)
        torch.testing.assert_close(mean, x.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(std, x.std(0), rtol=1e-4, atol=1e-5)
        eps = hidden.norm.eps
        divisor = (x.var(0) + eps).sqrt() if norm[-1] != "batch" else x.std(0) + eps
        gain, bias = list(hidden.norm.parameters())
        x = torch.tanh(gain * (x - x.mean(0)) / divisor + bias)
    expected = nn.functional.cross_entropy(model.network.output(x), split.targets.long()).item()
    with evaluating_with(model.network, measured):
        found = evaluate(model, SplitBatches(split), CPU)["loss"]
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_running_estimates_come_back_even_after_an_error(data):
    model = trained_a_little(data, "batch")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measured = measure(model.network, SplitBatches(data.splits["val"]), CPU)

    def fail():
        with evaluating_with(model.network, measured):
            changed = model.network.hidden1.norm.running_mean
            assert not torch.equal(changed, before["network.hidden1.norm.running_mean"])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_drift_says_how_far_the_running_estimates_are_off(data):
    model = trained_a_little(data, "batch")
    measured = measure(model.network, SplitBatches(data.splits["train"]), CPU)
    for name, layer in batch_norms(model.network).items():
        mean, std = measured[name]
        layer.running_mean.copy_(mean + 0.5 * std)
        layer.running_std.copy_(std * 1.25)
    for drift in drifts(model.network, measured).values():
        assert (drift.mean, drift.std) == pytest.approx((0.5, 0.25), rel=1e-4)


class Twice(nn.Module):
    """A network that uses one batch norm at two places."""

    def __init__(self):
        super().__init__()
        self.embedding, self.linear, self.norm = nn.Embedding(27, 4), nn.Linear(12, 12), BatchNorm(12)
        self.output = nn.Linear(12, 27)

    def forward(self, contexts):
        x = self.norm(self.linear(self.embedding(contexts).flatten(1))).tanh()
        return self.output(self.norm(5 + 3 * self.linear(x)))


def test_a_layer_that_is_used_twice_is_measured_over_both_uses(data):
    torch.manual_seed(0)
    network, seen = Twice(), []
    found = measure(network, SplitBatches(data.splits["train"]), torch.device("cpu"))
    handle = network.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    network.eval()(data.splits["train"].contexts.long())
    handle.remove()
    torch.testing.assert_close(found["norm"][0], torch.cat(seen).mean(0), rtol=1e-4, atol=1e-4)
