import pytest
import torch
from torch import nn

from ngram_mlp.data import NGramDataModule, SplitBatches
from ngram_mlp.diagnostics.batch_norm_statistics import evaluate_splits
from ngram_mlp.models import MLP, BatchNormMLP, WaveNet, metrics
from ngram_mlp.models.metrics import evaluate, tabulated

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return NGramDataModule("sample", block_size=2)


class Noisy(nn.Module):
    """Its logits are drawn anew each time."""

    def forward(self, contexts):
        return torch.randn(len(contexts), 27)


@pytest.mark.parametrize("kind", [MLP, BatchNormMLP, WaveNet])
def test_a_table_of_the_distinct_contexts_evaluates_as_the_network_does(data, kind):
    model = kind(data.vocabulary, data.block_size, n_hidden=20)
    split = data.splits["train"]
    table, batches = tabulated(model.network, split, CPU)
    assert isinstance(table, nn.Embedding)
    assert table.num_embeddings == len(split.contexts.unique(dim=0)) < len(split) / 2
    expected = evaluate(model.network, SplitBatches(split), CPU)
    assert evaluate(table, batches, CPU) == pytest.approx(expected, rel=1e-5)
    expected |= split.rates(expected["loss"])
    assert evaluate_splits(model.network, {"train": split})["train"] == pytest.approx(expected, rel=1e-5)
    assert model.network.training


@pytest.mark.parametrize(
    "network",
    [Noisy(), nn.Sequential(nn.Embedding(27, 27), nn.Flatten(), nn.BatchNorm1d(54, track_running_stats=False))],
    ids=["random", "batch norm without estimates"],
)
def test_a_network_whose_logits_depend_on_more_than_their_context_is_not_tabulated(data, network):
    assert tabulated(network, data.splits["train"], CPU)[0] is network


def test_a_table_that_would_not_pay_is_not_made(data, monkeypatch):
    model, long = MLP(data.vocabulary, 2, n_hidden=20), MLP(data.vocabulary, 12, n_hidden=20)
    split = NGramDataModule("sample", block_size=12).splits["val"]
    assert tabulated(long.network, split, CPU)[0] is long.network  # 12 characters are hardly ever the same
    monkeypatch.setattr(metrics, "LARGEST_TABLE", 100)
    assert tabulated(model.network, data.splits["train"], CPU)[0] is model.network


def test_losses_of_16_bits_are_summed_in_more():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(4096, 27, generator=generator), torch.randint(27, (4096,), generator=generator)
    metric = metrics.PredictionMetric()
    metric.update(logits.bfloat16(), targets)
    expected = torch.nn.functional.cross_entropy(logits.bfloat16().double(), targets).item()
    assert metric.compute()["loss"].item() == pytest.approx(expected, rel=1e-6)
