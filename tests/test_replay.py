"""Runs of `train.py` against independent loops in notebook form, number for number, from one generator.

The full lengths are run by `make replay`, shortened ones in the suite.
"""

import json

import numpy as np
import pytest
import torch

from ngram_mlp.cli import train
from ngram_mlp.models.loading import load_model
from ngram_mlp.models.sampling import sample_one_by_one
from ngram_mlp.runs.checkpoint import read_checkpoint
from tests.conftest import PROJECT
from tests.reference.notebook import Notebook, dataset
from tests.reference.stack import Stack

ENGINES = pytest.mark.parametrize("engine", ["eager", "fused"])


@pytest.fixture(autouse=True)
def one_thread():
    """So small networks gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train_on(tmp_path, *args):
    train.main(PROJECT / "configs" / "default.yaml", ["--runs_dir", str(tmp_path), "--name", "replay", *args])
    folder = tmp_path / "replay" / "version_0"
    return folder, np.load(folder / "losses.npy"), json.loads((folder / "metrics.json").read_text())


def replay_notebook(words, corpus, updates, engine, tmp_path):
    """The default run against the notebooks' loop: losses to four decimals, train and val loss to five."""
    args = ["--data.corpus", corpus, "--trainer.max_steps", str(updates), "--model.engine", engine]
    _, losses, metrics = train_on(tmp_path, *args)
    assert metrics["engine"] == engine
    ((X, Y), (Xval, Yval), _), vocab_size = dataset(words)
    notebook = Notebook(2147483647, vocab_size, batch_norm=True)
    expected = np.array(notebook.train(X, Y, updates))
    np.testing.assert_allclose(losses[:1_000], expected[:1_000], rtol=1e-4)
    np.testing.assert_allclose(losses[::10_000], expected[::10_000], atol=5e-5)
    assert metrics["val"]["loss"] == pytest.approx(notebook.split_loss(Xval, Yval), abs=5e-6)
    assert metrics["train"]["loss"] == pytest.approx(notebook.split_loss(X, Y), abs=5e-6)
    return metrics


@pytest.mark.slow
@ENGINES
def test_the_default_run_replays_the_notebooks_loop_at_full_length(names, tmp_path, engine):
    metrics = replay_notebook(names, "names", 200_000, engine, tmp_path)
    assert 2.10 < metrics["val"]["loss"] < 2.12


@ENGINES
def test_the_default_run_replays_the_notebooks_loop(sample_words, tmp_path, engine):
    replay_notebook(sample_words, "sample", 3_000, engine, tmp_path)


@ENGINES
def test_a_deep_batch_norm_stack_replays_its_loop_and_samples_the_same_names(sample_words, tmp_path, engine):
    config = PROJECT / "configs" / "experiments" / "deep_batch_norm.yaml"
    args = ["--data.corpus", "sample", "--trainer.max_steps", "1001", "--model.engine", engine]
    folder, losses, _ = train_on(tmp_path, "--config", str(config), *args)
    ((X, Y), _, _), vocab_size = dataset(sample_words)
    stack = Stack(2147483647, vocab_size)
    expected = [stack.step(X, Y) for _ in range(1_001)]
    np.testing.assert_allclose(losses, expected, atol=5e-5)

    stack.evaluation()
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    generator = torch.Generator()
    generator.set_state(checkpoint.stream["stream_generator"])
    names = [name for name, _ in sample_one_by_one(load_model(checkpoint), 20, generator)]
    characters = checkpoint.hyperparameters["characters"]
    assert names == ["".join(characters[i] for i in stack.sample()) for _ in range(20)]
