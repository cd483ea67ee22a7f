"""Runs of `train.py` against independent loops in notebook form, number for number, from one generator.

The full lengths are run by `make replay`, shortened ones in the suite.
"""

import json
import math

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ngram_mlp.callbacks.quantity import tag
from ngram_mlp.cli import train
from ngram_mlp.data.datamodule import stream_of
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.loading import load_model
from ngram_mlp.models.sampling import sample_one_by_one
from runlab import read_checkpoint
from tests.conftest import PROJECT
from tests.reference.notebook import Notebook, dataset
from tests.reference.stack import BatchNorm, Linear, Stack, Tanh

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


def replay_notebook(words, corpus, updates, engine, tmp_path, batch_norm=True):
    """A run against the notebooks' loop: losses to four decimals, train and val loss to five."""
    args = ["--data.corpus", corpus, "--trainer.max_steps", str(updates), "--engine", engine]
    if not batch_norm:
        args = ["--config", str(PROJECT / "configs" / "experiments" / "002_no_norm.yaml"), *args]
    _, losses, metrics = train_on(tmp_path, *args)
    assert metrics["engine"] == engine
    ((X, Y), (Xval, Yval), _), vocab_size = dataset(words)
    notebook = Notebook(2147483647, vocab_size, batch_norm=batch_norm)
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
    replay_notebook(sample_words, "sample", 1_500, engine, tmp_path)


def test_a_run_without_batch_norm_replays_the_notebooks_loop(sample_words, tmp_path):
    replay_notebook(sample_words, "sample", 300, "eager", tmp_path, batch_norm=False)


def numbers_of_an_update(stack, X, Y):
    """The numbers of the stack's next update by tag, with retain_grad and friends, and its loss."""
    weights = {"embedding.weight": stack.C}
    linears = [layer for layer in stack.layers if isinstance(layer, Linear)]
    owners = [*(f"hidden{i}" for i in range(1, len(linears))), "output"]
    weights |= {f"{owner}.linear.weight": layer.weight for owner, layer in zip(owners, linears, strict=True)}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    norms = [layer for layer in stack.layers if isinstance(layer, BatchNorm)]
    gains = [norm.gamma.detach().clone() for norm in norms]
    loss = stack.step(X, Y, retain=True)

    numbers = {}
    for name, weight in weights.items():
        change = weight.detach() - before[name]
        numbers[tag(name, "update_to_data")] = math.log10(change.std() / before[name].std())
        numbers[tag(name, "gradient_to_data")] = math.log10(weight.grad.std() / before[name].std())
        numbers[tag(name, "gradient_std")] = weight.grad.std().item()
        numbers[tag(name, "gradient_norm")] = weight.grad.square().sum().sqrt().item()
    owner, before_tanh = iter(owners), None
    for layer in stack.layers:
        if isinstance(layer, Linear):
            name, kind = next(owner), "linear"
        else:
            kind = "norm" if isinstance(layer, BatchNorm) else "activation"
        numbers[tag(f"{name}.{kind}", "gradient_std")] = layer.out.grad.std().item()
        if isinstance(layer, Tanh):
            numbers[tag(name, "activation_mean")] = layer.out.mean().item()
            numbers[tag(name, "activation_std")] = layer.out.std().item()
            numbers[tag(name, "saturated")] = (layer.out.abs() > 0.97).float().mean().item()
            numbers[tag(name, "dead_units")] = (layer.out.abs() > 0.97).all(0).float().mean().item()
            numbers[tag(name, "preactivation_std")] = before_tanh.std().item()
        before_tanh = layer.out
    for owner, norm, linear, gain in zip(owners, norms, linears, gains, strict=True):
        numbers[tag(f"{owner}.norm", "batch_norm_batch_mean")] = linear.out.mean(0).mean().item()
        numbers[tag(f"{owner}.norm", "batch_norm_batch_std")] = linear.out.std(0).mean().item()
        numbers[tag(f"{owner}.norm", "batch_norm_running_std")] = norm.running_var.sqrt().mean().item()
        numbers[tag(f"{owner}.norm", "batch_norm_gain")] = gain.mean().item()
    return numbers, loss


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_a_deep_batch_norm_stack_replays_its_loop_its_statistics_and_its_names(sample_words, tmp_path, engine):
    config = PROJECT / "configs" / "experiments" / "deep_batch_norm.yaml"
    args = ["--data.corpus", "sample", "--trainer.max_steps", "1001", "--engine", engine]
    folder, losses, _ = train_on(tmp_path, "--config", str(config), *args, "--observe.every_n_updates", "1000/1000/0")
    ((X, Y), _, _), vocab_size = dataset(sample_words)
    stack = Stack(2147483647, vocab_size)
    expected = [stack.step(X, Y) for _ in range(1_000)]
    numbers, last = numbers_of_an_update(stack, X, Y)
    np.testing.assert_allclose(losses, [*expected, last], atol=5e-5)

    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    for name, value in numbers.items():
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found.keys() == {0, 1_000}
        # A mean near 0 is the small difference of large sums.
        assert found[1_000] == pytest.approx(value, rel=1e-5, abs=1e-7 if "_mean" in name else 0), name

    stack.evaluation()
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    generator = torch.Generator()
    generator.set_state(stream_of(checkpoint)["minibatches"]["generator"])
    names = [name for name, _ in sample_one_by_one(load_model(checkpoint, LanguageModel), 20, generator)]
    characters = checkpoint.hyperparameters["vocabulary"]
    assert names == ["".join(characters[i] for i in stack.sample()) for _ in range(20)]
