"""The reference engine: the notebooks' loop in plain PyTorch."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ngram_mlp.training.optimizers import has_step_hooks
from ngram_mlp.training.processes import average, processes


class EagerEngine:
    """Performs the updates of a chunk one by one; several processes average their gradients and losses.

    Args:
        network: maps contexts (B, T) to logits (B, vocabulary size).
        optimizer: steps once for each minibatch.
        scheduler: stepped once after each update.
    """

    name = "eager"

    def __init__(self, network: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
        self._network = network
        self._scheduler = scheduler
        self._step = _step_of(optimizer)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def run(self, contexts: Tensor, targets: Tensor) -> Tensor:
        """Performs K updates on contexts (K, B, T) and targets (K, B); returns their losses, shape (K,)."""
        losses = []
        several = processes() > 1
        for minibatch, target in zip(contexts.unbind(0), targets.unbind(0), strict=True):
            loss = F.cross_entropy(self._network(minibatch), target)
            for parameter in self._parameters:
                parameter.grad = None
            torch.autograd.backward(loss)
            if several:
                average([parameter.grad for parameter in self._parameters if parameter.grad is not None])
            self._step()
            self._scheduler.step()
            losses.append(loss.detach())
        stacked = torch.stack(losses)
        if several:
            average([stacked])
        return stacked


def _step_of(optimizer: Optimizer) -> Callable[[], object]:
    """`optimizer.step` without the wrappers that torch puts around it for profilers and hooks.

    They cost twice as much as the step of a network of this size. Where a hook is registered they stay.
    """
    step = type(optimizer).step
    if has_step_hooks(optimizer) or not hasattr(step, "hooked"):
        return optimizer.step
    optimizer._opt_called = True  # type: ignore[attr-defined]  # what a schedule checks before its first step
    return partial(step.__wrapped__, optimizer)  # type: ignore[attr-defined]
