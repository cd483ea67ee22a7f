"""Hidden activations with positions, and norms that lack what others have: nothing is mistaken, nothing lost."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from ngram_mlp.callbacks.batch_norm_statistics import BatchNormStatistics
from ngram_mlp.callbacks.recorder import EVERYTHING
from ngram_mlp.data import NGrams
from ngram_mlp.diagnostics.batch_norm_statistics import evaluate_splits, measure
from ngram_mlp.diagnostics.figures import FEW, apart, embedding_figure, saturation_figure
from ngram_mlp.diagnostics.initial_verdicts import judge_initialization
from ngram_mlp.diagnostics.snapshot import take_snapshot
from ngram_mlp.diagnostics.statistics import ROWS, cells, dead, saturated
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.layers import BatchNorm

CPU = torch.device("cpu")


class Swap(nn.Module):
    """(B, T, C) to (B, C, T), and back."""

    def forward(self, x):
        return x.transpose(1, 2)


class Last(nn.Module):
    """(B, T, C) to (B, C): the last position."""

    def forward(self, x):
        return x[:, -1]


def network(*norm, n=12):
    """Each position through a linear layer, the norm and a tanh: (B, T) to (B, 27)."""
    torch.manual_seed(0)
    layers = nn.Embedding(27, 6), nn.Linear(6, n), *norm, nn.Tanh(), nn.Flatten(), nn.Linear(3 * n, 27)
    return nn.Sequential(*layers).train()


def minibatch(size=32):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(27, (size, 3), generator=generator), torch.randint(27, (size,), generator=generator)


class Positions(LanguageModel):
    """A user's variant with hidden activations (B, T, C), or (B, C, T) at torch's batch norm."""

    def __init__(self, vocabulary: str, block_size: int, norm: str) -> None:
        super().__init__(vocabulary, block_size)
        norms = {
            "BatchNorm1d": (Swap(), nn.BatchNorm1d(12), Swap()),
            "LayerNorm": (nn.LayerNorm(12),),
            "ours": (BatchNorm(12),),
        }
        self.network = network(*norms[norm])


@pytest.mark.parametrize("norm", ["BatchNorm1d", "LayerNorm", "ours"])
def test_a_variant_with_positions_trains_and_all_about_it_is_recorded(norm, run_train):
    options = ("--model.norm", norm, "--trainer.max_steps", "3", "--observe.every_n_updates", "each")
    batch_norm = norm != "LayerNorm"
    statistics = ("--statistics", "calibrated") if batch_norm else ()
    folder, _ = run_train("--model", "tests.diagnostics.test_shapes.Positions", *options, *statistics)
    assert {"saturation.png", "activations.png"} <= {path.name for path in (folder / "figures").iterdir()}
    tags = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
    assert sum("/batch_norm_" in tag for tag in tags) == (8 if batch_norm else 0)
    assert any("/dead_units" in tag for tag in tags)


def observed(net):
    """What `BatchNormStatistics` records of a minibatch, by tag without the layer's name."""
    numbers, histograms = {}, set()
    recorder = SimpleNamespace(
        due=EVERYTHING, numbers=numbers.update, histogram=lambda tag, _: histograms.add(tag.split("/")[1])
    )
    BatchNormStatistics().observe(take_snapshot(net, *minibatch()), SimpleNamespace(network=net), recorder)
    found = {tag.split("/")[1].removeprefix("batch_norm_"): value for tag, value in numbers.items()}
    assert histograms == {f"batch_norm_{tag}" for tag in found if not tag.startswith("drift")}
    return found


@pytest.mark.parametrize("norm", [(Swap(), nn.BatchNorm1d(12), Swap()), (BatchNorm(12),)], ids=["torch's", "ours"])
def test_batch_norms_are_measured_over_examples_and_positions(norm):
    net, (contexts, targets) = network(*norm), minibatch()
    examples = net[1](net[0](contexts)).detach().reshape(-1, 12)
    mean, std = examples.mean(0), examples.std(0)
    found = observed(net)
    assert found["batch_mean"] == pytest.approx(mean.mean().item(), rel=1e-5)
    assert found["batch_std"] == pytest.approx(std.mean().item(), rel=1e-5)
    # The running estimates are still 0 and 1.
    assert found["drift_mean"] == pytest.approx((mean.abs() / std).mean().item(), rel=1e-5)
    assert found["drift_std"] == pytest.approx((1 / std - 1).abs().mean().item(), rel=1e-5)
    batches = [(contexts[:20], targets[:20]), (contexts[20:], targets[20:])]
    ((measured_mean, measured_std),) = measure(net, batches, CPU).values()
    torch.testing.assert_close(measured_mean, mean)
    torch.testing.assert_close(measured_std, std)


def frozen():
    layer = nn.BatchNorm1d(12)
    nn.init.constant_(layer.weight.requires_grad_(False), 3.0)
    return layer


ALWAYS, TRAINED = {"batch_mean", "batch_std"}, {"gain", "bias"}
RUNNING = {"running_mean", "running_std", "drift_mean", "drift_std"}


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (nn.BatchNorm1d(12, affine=False), ALWAYS | RUNNING),
        (nn.BatchNorm1d(12, track_running_stats=False), ALWAYS | TRAINED),
        (nn.BatchNorm1d(12, affine=False, track_running_stats=False), ALWAYS),
        (nn.BatchNorm1d(12, bias=False), ALWAYS | RUNNING | {"gain"}),
        (frozen(), ALWAYS | RUNNING | TRAINED),
    ],
    ids=["no gain", "no estimates", "neither", "no bias", "a frozen gain"],
)
def test_of_a_batch_norm_that_lacks_something_the_rest_is_recorded(norm, expected):
    net = network(Swap(), norm, Swap())
    found = observed(net)
    assert found.keys() == expected
    if "gain" in found:
        assert found["gain"] == (1.0 if norm.weight.requires_grad else 3.0)
    assert list(measure(net, [minibatch()], CPU)) == (["batchnorm1d"] if "running_mean" in found else [])
    assert evaluate_splits(net, {"train": NGrams(*minibatch(50))}, "calibrated")["train"]["loss"] > 0


def test_a_unit_is_dead_that_is_saturated_at_every_position_of_every_example():
    flat = torch.ones(5, 3, 4, dtype=torch.bool)
    flat[2, 1, 0] = flat[4, 2, 3] = False
    assert dead(flat).tolist() == [False, True, True, False]


def test_verdicts_are_about_the_units():
    net = network()
    with torch.no_grad():
        net[1].bias[:3] = 100.0
    verdicts = {v.about: v for v in judge_initialization(take_snapshot(net, *minibatch()))}
    assert verdicts["dead units"].value == pytest.approx(3 / 12)


def test_a_mask_is_drawn_row_by_row_and_not_longer_than_can_be_read():
    mask = torch.zeros(100, 4, 12, dtype=torch.bool)
    mask[..., 5] = True
    mask[90:] = True
    figure = saturation_figure({"update 0": {"hidden1": cells(mask)}, "update 9": {"hidden1": cells(mask[:2])}})
    long, short = figure.axes
    assert long.images[0].get_array().shape == (ROWS, 12)
    assert long.get_title() == "update 0\nhidden1: 17.5%, 1 dead"  # of all of it
    assert short.images[0].get_array().shape == (8, 12)


def test_an_embedding_of_many_characters_is_drawn_in_seconds():
    labels = [chr(0x4E00 + n) for n in range(3_000)]
    figure = embedding_figure(torch.randn(3_000, 10), labels)
    (axis,) = figure.axes
    assert sum(len(line.get_xdata()) for line in axis.lines if line.get_marker() == "o") == 3_000
    assert len(axis.texts) <= 2 * FEW  # as many as there is room for


def test_labels_are_moved_apart():
    points = np.concatenate([np.random.default_rng(1).normal(size=(20, 2)), np.zeros((3, 2))]).astype(np.float32)
    moved = apart(points, 0.05) / np.ptp(points, axis=0)
    distances = np.linalg.norm(moved[:, None] - moved, axis=2)[~np.eye(len(moved), dtype=bool)]
    assert distances.min() > 0.045
    assert np.linalg.norm(moved - points / np.ptp(points, axis=0), axis=1).max() < 0.2


def test_layers_that_pass_on_no_plain_tensor_are_left_out():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.gru, self.output = nn.Embedding(27, 6), nn.GRU(6, 8), nn.Linear(8, 27)
            self.inner = Named()

        def forward(self, x):
            states, _ = self.gru(self.inner(x=self.embedding(x)).transpose(0, 1))
            return self.output(states[-1])

    class Named(nn.Linear):
        def __init__(self):
            super().__init__(6, 6)

        def forward(self, *, x):
            return super().forward(x)

    snapshot = take_snapshot(Recurrent(), *minibatch())
    assert list(snapshot.layers) == ["embedding", "output"]
    assert snapshot.parameters["gru.weight_hh_l0"].gradient.any()
    assert snapshot.parameters["inner.weight"].gradient.any()


def test_two_non_linearities_of_one_module_are_told_apart():
    body = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh())
    head = nn.Sequential(nn.Linear(6, 27), nn.Tanh())
    snapshot = take_snapshot(nn.Sequential(nn.Embedding(27, 6), Last(), body, head), *minibatch())
    assert list(snapshot.nonlinearities) == ["sequential1.tanh1", "sequential1.tanh2", "sequential2"]


def test_a_non_linearity_that_works_in_place_leaves_its_input_alone():
    x = torch.tensor([[-1.0, 1.0]])
    assert saturated(nn.ReLU(inplace=True), x).tolist() == [[True, False]]
    assert x.tolist() == [[-1.0, 1.0]]
