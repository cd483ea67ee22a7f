"""Provides the statistics that batch norm evaluates with: running estimates, or those measured over a split.

Measuring them over the training split after training is precise batch norm (arXiv:2105.07576).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ngram_mlp.data import NGrams, SplitBatches
from ngram_mlp.models.layers import BatchNorm, batch_norms, examples_of
from ngram_mlp.models.metrics import evaluate, evaluation_mode, tabulated
from runlab import UserError

StatisticsName = Literal["running", "batch", "calibrated"]
STATISTICS: tuple[StatisticsName, ...] = get_args(StatisticsName)
Batches = Iterable[tuple[Tensor, Tensor]]
Measured = dict[str, tuple[Tensor, Tensor]]


def measure(network: nn.Module, batches: Batches, device: torch.device) -> Measured:
    """Returns the mean and unbiased std (n,) of each batch-norm layer's input over all examples, by layer.

    Each layer takes one pass over the examples, because its input depends on the statistics of the layers before it.
    Layers without running estimates are omitted: they always use the statistics of the batch.
    """
    measured: Measured = {}
    for name, layer in _with_estimates(network).items():
        with evaluation_mode(network), evaluating_with(network, measured):
            measured[name] = _moments_of_input(network, layer, batches, device)
    return measured


@contextmanager
def evaluating_with(network: nn.Module, measured: Measured) -> Iterator[None]:
    """Makes the named layers evaluate with these statistics, not their running estimates, inside the block."""
    running = {name: _running(layer) for name, layer in _with_estimates(network).items() if name in measured}
    saved = [(buffer, buffer.clone()) for mean, spread, _ in running.values() for buffer in (mean, spread)]
    try:
        for name, (running_mean, spread, is_variance) in running.items():
            mean, std = measured[name]
            running_mean.copy_(mean)
            spread.copy_(std**2 if is_variance else std)
        yield
    finally:
        for buffer, value in saved:
            buffer.copy_(value)


def evaluate_splits(
    network: nn.Module, splits: Mapping[str, NGrams], statistics: StatisticsName = "running"
) -> dict[str, dict[str, float]]:
    """Returns loss, perplexity and accuracy by split (`train` comes first), computed on the network's device.

    Batch norm evaluates with its `running` estimates, or with the statistics over the evaluated split itself (`batch`)
    or over the training split (`calibrated`, precise batch norm).
    """
    device = next(network.parameters()).device
    metrics, measured = {}, {}
    for name, ngrams in splits.items():
        if statistics == "batch" or (statistics == "calibrated" and name == "train"):
            measured = measure(network, SplitBatches(ngrams), device)
        with evaluating_with(network, measured):
            metrics[name] = evaluate(*tabulated(network, ngrams, device), device)
        metrics[name] |= ngrams.rates(metrics[name]["loss"])
    return metrics


@dataclass(frozen=True)
class Drift:
    """The distance of a layer's running estimates from measured statistics, as means over its units."""

    mean: float  # abs(running mean - measured mean), in measured standard deviations
    std: float  # abs(running std / measured std - 1)


def drifts(network: nn.Module, measured: Measured) -> dict[str, Drift]:
    """Returns the drift of each measured layer that keeps running estimates, by name."""
    found = {}
    for name, layer in _with_estimates(network).items():
        if name not in measured:
            continue
        (mean, std), (running_mean, running_std) = measured[name], running_mean_and_std(layer)
        std = std.clamp(min=torch.finfo(std.dtype).tiny)
        off_mean, off_std = (running_mean - mean).abs() / std, (running_std / std - 1).abs()
        found[name] = Drift(float(off_mean.mean()), float(off_std.mean()))
    return found


def running_mean_and_std(layer: BatchNorm | nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Returns the running mean and std (n,) of a layer, whether it keeps the std or the variance."""
    mean, spread, is_variance = _running(layer)
    return mean, spread.sqrt() if is_variance else spread


def require_batch_norm(network: nn.Module, statistics: str) -> None:
    """Raises a UserError for statistics other than `running` if the network has no running estimates to replace."""
    if statistics != "running" and not _with_estimates(network):
        raise UserError(
            "the network has no batch norm with running estimates; remove this option", statistics=statistics
        )


def _with_estimates(network: nn.Module) -> dict[str, BatchNorm | nn.BatchNorm1d]:
    """Returns the batch-norm layers that keep running estimates; torch's own may keep none."""
    return {name: layer for name, layer in batch_norms(network).items() if layer.running_mean is not None}


def _running(layer: BatchNorm | nn.BatchNorm1d) -> tuple[Tensor, Tensor, bool]:
    """Returns the buffers of a layer's running mean and spread, and whether the spread is a variance."""
    spread = "running_std" if hasattr(layer, "running_std") else "running_var"
    return layer.get_buffer("running_mean"), layer.get_buffer(spread), spread == "running_var"


@torch.no_grad()
def _moments_of_input(
    network: nn.Module, layer: nn.Module, batches: Batches, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Returns mean and unbiased std of a layer's input, merging batches as Chan, Golub and LeVeque 1983 do."""
    inputs: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    count, mean, squares = 0, torch.zeros((), device=device), torch.zeros((), device=device)
    try:
        for contexts, _ in batches:
            network(contexts.to(device))
            x = torch.cat([examples_of(one, layer) for one in inputs])  # of each use in the network
            inputs.clear()
            new_mean = x.mean(0)
            change, share = new_mean - mean, len(x) / (count + len(x))
            squares = squares + ((x - new_mean) ** 2).sum(0) + change**2 * (count * share)
            mean = mean + change * share
            count += len(x)
    finally:
        handle.remove()
    return mean, (squares / max(1, count - 1)).sqrt()
