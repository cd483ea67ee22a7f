"""The hierarchical network against a hand-written loop, and against what the lecture printed."""

import json

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ngram_mlp.models import WaveNet
from ngram_mlp.models.layers import BatchNorm, BatchNormalization
from ngram_mlp.models.wavenet import Pairs
from runlab import UserError
from tests.conftest import NAMES, PROJECT
from tests.reference.notebook import dataset
from tests.reference.wavenet import Tree

EXPERIMENT = ("--config", str(PROJECT / "configs" / "experiments" / "wavenet.yaml"))
CHARACTERS = ".abcdefgh"
LECTURE = {0: 3.3167, 10_000: 2.0576, 50_000: 1.7836, 100_000: 1.7736, 150_000: 1.7466, 190_000: 1.8555}


@pytest.mark.parametrize(("engine", "rtol"), [("eager", 1e-5), pytest.param("fused", 1e-4, marks=pytest.mark.slow)])
def test_a_run_is_the_lectures_loop_number_for_number(engine, rtol, run_train, corpus_file):
    options = ("--trainer.max_steps", "300", "--engine", engine, "--seed_everything", "7")
    folder, _ = run_train(*EXPERIMENT, *options)
    words = corpus_file.read_text().split()
    ((X, Y), (Xval, Yval), _), vocab_size = dataset(words, block_size=8)
    tree = Tree(7, vocab_size)
    np.testing.assert_allclose(np.load(folder / "losses.npy"), tree.train(X, Y, 300), rtol=rtol)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["engine"] == engine
    assert metrics["val"]["loss"] == pytest.approx(tree.split_loss(Xval, Yval), rel=rtol)
    characters = "." + "".join(sorted(set("".join(words))))
    names = ["".join(characters[i] for i in tree.sample(tree.block_size)) for _ in range(10)]
    assert (folder / "samples.txt").read_text().splitlines() == names


@pytest.mark.parametrize("updates", [1, pytest.param(200_000, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("names")
def test_a_run_is_what_the_lecture_printed(updates, run_train):
    folder, _ = run_train(*EXPERIMENT, "--data.corpus", str(NAMES), "--trainer.max_steps", str(updates))
    losses = np.load(folder / "losses.npy")
    printed = {update: loss for update, loss in LECTURE.items() if update < updates}
    np.testing.assert_allclose(losses[list(printed)], list(printed.values()), atol=1e-4)
    if updates == 200_000:
        metrics = json.loads((folder / "metrics.json").read_text())
        assert (metrics["train"]["loss"], metrics["val"]["loss"]) == pytest.approx((1.7690, 1.9937), abs=1e-4)
        assert (folder / "samples.txt").read_text().split()[:4] == ["arlij", "chetta", "heago", "rocklei"]


def test_its_statistics_are_over_examples_and_positions_and_every_figure_is_drawn(run_train, corpus_file):
    folder, _ = run_train(*EXPERIMENT, "--trainer.max_steps", "6", "--observe.every_n_updates", "each")
    ((X, Y), _, _), vocab_size = dataset(corpus_file.read_text().split(), block_size=8)
    tree = Tree(42, vocab_size)
    tree.train(X, Y, 6)
    events = EventAccumulator(str(folder)).Reload()
    for number, stage in enumerate(tree.stages, 1):
        flat = (stage["tanh"].abs() > 0.97).flatten(0, 1)
        expected = {
            f"within_hidden{number}/activation_std": stage["tanh"].std(),
            f"within_hidden{number}/saturated": flat.float().mean(),
            f"within_hidden{number}/dead_units": flat.all(0).float().mean(),
            f"within_hidden{number}/batch_norm_batch_std/norm": stage["linear"].std((0, 1)).mean(),
            f"within_hidden{number}/batch_norm_running_mean/norm": stage["mean"].mean(),
            f"within_hidden{number}/batch_norm_running_std/norm": stage["var"].sqrt().mean(),
        }
        for tag, value in expected.items():
            found = {event.step: event.value for event in events.Scalars(tag)}
            assert found[5] == pytest.approx(value.item(), rel=1e-4, abs=1e-7), tag
    figures = {path.stem for path in (folder / "figures").iterdir()}
    assert figures >= {"activations", "saturation", "gradients", "weight_gradients", "update_to_data", "embedding"}
    assert {"preflight.json", "verdicts.json"} <= {path.name for path in folder.iterdir()}


def test_pairs_are_neighbours_and_the_last_pair_is_one_vector():
    x = torch.arange(24).view(2, 4, 3)
    assert Pairs()(x).tolist() == [[[*a.tolist(), *b.tolist()] for a, b in (e[:2], e[2:])] for e in x]
    assert Pairs()(x[:, :2]).tolist() == [[*a.tolist(), *b.tolist()] for a, b in x[:, :2]]


@pytest.mark.parametrize("block_size", [1, 3, 12])
def test_a_context_that_cannot_be_halved_is_refused(block_size):
    with pytest.raises(UserError, match=f"block_size {block_size}: give a power of two"):
        WaveNet(CHARACTERS, block_size)


def test_torchs_batch_norm_takes_the_same_place():
    contexts = torch.randint(9, (32, 4), generator=torch.Generator().manual_seed(0))
    models = []
    for norm in ("BatchNorm1d", BatchNormalization("batch", statistic="var", unbiased=False)):
        torch.manual_seed(0)
        models.append(WaveNet(CHARACTERS, 4, n_embd=3, n_hidden=5, batch_norm=norm).train())
    theirs, ours = models
    assert [type(layer).__name__ for layer in ours.network] == ["Embedding", *["Sequential"] * 3]
    torch.testing.assert_close(theirs(contexts), ours(contexts))
    for number in (1, 2):
        norm, own = (getattr(model.network, f"hidden{number}").norm for model in models)
        assert isinstance(norm, torch.nn.BatchNorm1d)
        assert isinstance(own, BatchNorm)
        torch.testing.assert_close(norm.running_var, own.running_var)
    torch.testing.assert_close(theirs.eval()(contexts), ours.eval()(contexts))
