"""What the callbacks report of update 1,000 against retain_grad and friends in a notebook-style loop."""

import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ngram_mlp.cli import train
from tests.conftest import PROJECT
from tests.reference.notebook import dataset
from tests.reference.stack import BatchNorm, Linear, Stack, Tanh


def expected_at(update, words):
    """The numbers of one update by tag, from a stack trained up to it."""
    ((X, Y), _, _), vocab_size = dataset(words)
    stack = Stack(2147483647, vocab_size)
    for _ in range(update):
        stack.step(X, Y)
    weights = {"embedding.weight": stack.C}
    linears = [layer for layer in stack.layers if isinstance(layer, Linear)]
    owners = [*(f"hidden{i}" for i in range(1, len(linears))), "output"]
    weights |= {f"{owner}.linear.weight": layer.weight for owner, layer in zip(owners, linears, strict=True)}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    norms = [layer for layer in stack.layers if isinstance(layer, BatchNorm)]
    gains = [norm.gamma.detach().clone() for norm in norms]
    stack.step(X, Y, retain=True)

    numbers = {}
    for name, weight in weights.items():
        change = weight.detach() - before[name]
        numbers[f"update_to_data/{name}"] = math.log10(change.std() / before[name].std())
        numbers[f"gradient_to_data/{name}"] = math.log10(weight.grad.std() / before[name].std())
        numbers[f"weight_gradient_std/{name}"] = weight.grad.std().item()
        numbers[f"weight_gradient_norm/{name}"] = weight.grad.square().sum().sqrt().item()
    owner, before_tanh = iter(owners), None
    for layer in stack.layers:
        if isinstance(layer, Linear):
            name, kind = next(owner), "linear"
        else:
            kind = "norm" if isinstance(layer, BatchNorm) else "activation"
        numbers[f"gradient_std/{name}.{kind}"] = layer.out.grad.std().item()
        if isinstance(layer, Tanh):
            numbers[f"activation_mean/{name}"] = layer.out.mean().item()
            numbers[f"activation_std/{name}"] = layer.out.std().item()
            numbers[f"saturated/{name}"] = (layer.out.abs() > 0.97).float().mean().item()
            numbers[f"dead_units/{name}"] = (layer.out.abs() > 0.97).all(0).float().mean().item()
            numbers[f"preactivation_std/{name}"] = before_tanh.std().item()
        before_tanh = layer.out
    for owner, norm, linear, gain in zip(owners, norms, linears, gains, strict=True):
        numbers[f"batch_norm_batch_mean/{owner}.norm"] = linear.out.mean(0).mean().item()
        numbers[f"batch_norm_batch_std/{owner}.norm"] = linear.out.std(0).mean().item()
        numbers[f"batch_norm_running_std/{owner}.norm"] = norm.running_var.sqrt().mean().item()
        numbers[f"batch_norm_gain/{owner}.norm"] = gain.mean().item()
    return numbers


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_the_numbers_of_update_1000_of_a_five_layer_stack(engine, sample_words, tmp_path):
    config = PROJECT / "configs" / "experiments" / "deep_batch_norm.yaml"
    args = ["--data.corpus", "sample", "--model.engine", engine, "--runs_dir", str(tmp_path)]
    args += ["--trainer.max_steps", "1001", "--observe.every_n_updates", "1000/1000/0"]
    train.main(PROJECT / "configs" / "default.yaml", ["--config", str(config), *args])
    events = EventAccumulator(str(tmp_path / "deep_batch_norm" / "version_0"), {"scalars": 0}).Reload()
    torch.set_num_threads(1)
    for tag, expected in expected_at(1_000, sample_words).items():
        found = {event.step: event.value for event in events.Scalars(tag)}
        assert found.keys() == {0, 1_000}
        # A mean near 0 is the small difference of large sums.
        assert found[1_000] == pytest.approx(expected, rel=1e-5, abs=1e-7 if "_mean" in tag else 0), tag
