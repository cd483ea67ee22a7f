"""Tries some updates and undoes them, to test whether a learning rate suits a network."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from ngram_mlp.diagnostics.statistics import log10_of_norms

UPDATES = 32


@dataclass(frozen=True)
class Trial:
    """The result of a trial."""

    losses: Sequence[float]  # of its updates, in nats; the last may not be finite
    first_ratio: float  # log10 of norm(update) / norm(weights) over all weights, at the first update
    ratio: float  # its median over the second half
    lr: float
    option: str = "optimizer.lr"  # the model's option that sets the rate; "" if none does alone

    @property
    def rise(self) -> float:
        """The increase from the first loss to the mean of the last quarter; inf if it is not finite."""
        last = self.losses[-max(1, len(self.losses) // 4) :]
        rise = statistics.fmean(last) - self.losses[0]
        return rise if math.isfinite(rise) else math.inf


@torch.enable_grad()
def try_updates(
    network: nn.Module,
    optimizer: Optimizer,
    minibatches: Iterable[tuple[Tensor, Tensor]],
    clip: Callable[[list[Tensor]], Any] | None = None,
) -> Trial | None:
    """Trains a network on minibatches (B, T), (B,), and undoes it; returns None if the optimizer needs a closure.

    The learning rate is the highest of the optimizer's schedule, as far as the parameter groups show it.

    Args:
        network: in training mode. Its parameters, gradients and buffers, and the random state, are restored afterwards.
        optimizer: of the network's parameters; not to be used again.
        minibatches: one per update of the trial.
        clip: clips the gradients of parameters.
    """
    if isinstance(optimizer, LBFGS):
        return None
    for group in optimizer.param_groups:
        group["lr"] = max(float(group[key]) for key in ("lr", "initial_lr", "max_lr") if key in group)
    parameters: list[Tensor] = [p for p in network.parameters() if p.requires_grad]
    weights = [p for p in parameters if p.dim() > 1]
    losses, ratios = list[float](), list[float]()
    with _taken_back(network):
        for contexts, targets in minibatches:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(contexts), targets)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                break
            loss.backward()  # type: ignore[no-untyped-call]
            if clip is not None:
                clip(parameters)
            old = [w.detach().clone() for w in weights]
            optimizer.step()
            ratios.append(log10_of_norms([w.detach() - o for w, o in zip(weights, old, strict=True)], old))
    ratio, group = statistics.median(ratios[len(ratios) // 2 :] or [math.inf]), optimizer.param_groups[0]
    return Trial(losses, (ratios or [math.inf])[0], ratio, float(group["lr"]), _option_of_the_rate(optimizer))


def _option_of_the_rate(optimizer: Optimizer) -> str:
    group = optimizer.param_groups[0]
    if "max_lr" in group:  # of OneCycleLR, which reads nothing else
        return "lr_scheduler.max_lr"
    is_own = optimizer.defaults.get("lr") == group.get("initial_lr", group["lr"])
    return "optimizer.lr" if is_own else ""  # CyclicLR overwrites it


@contextmanager
def _taken_back(network: nn.Module) -> Iterator[None]:
    """Restores a network's parameters, gradients and buffers, and the random state, after the block."""
    tensors = [*network.parameters(), *network.buffers()]
    before, gradients = [x.detach().clone() for x in tensors], [p.grad for p in network.parameters()]
    with torch.random.fork_rng([x.device for x in tensors[:1] if x.is_cuda]):
        try:
            yield
        finally:
            with torch.no_grad():
                for x, value in zip(tensors, before, strict=True):
                    x.copy_(value)
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.grad = gradient


def clipping(value: float | None, algorithm: str | None) -> Callable[[list[Tensor]], Any] | None:
    """Returns a function that clips gradients as a trainer with these options does: by norm, or by `value`; or None."""
    if not value:
        return None
    if algorithm == "value":
        return lambda parameters: nn.utils.clip_grad_value_(parameters, value)
    return lambda parameters: nn.utils.clip_grad_norm_(parameters, value)
