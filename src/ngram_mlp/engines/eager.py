"""The reference engine: the notebooks' loop in plain PyTorch."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from ngram_mlp.processes import average, processes

__all__ = ["EagerEngine", "has_step_hooks"]


class EagerEngine:
    """Performs the updates of a block one by one; several processes average their gradients and losses.

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
        block = torch.stack(losses)
        if several:
            average([block])
        return block


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Whether somebody wants to be called at the steps of this optimizer, or of all."""
    return any(
        (
            optimizer._optimizer_step_pre_hooks,
            optimizer._optimizer_step_post_hooks,
            _global_optimizer_pre_hooks,
            _global_optimizer_post_hooks,
        )
    )


def _step_of(optimizer: Optimizer) -> Callable[[], object]:
    """`optimizer.step` without the wrappers that torch puts around it for profilers and hooks.

    For a network of this size they cost twice as much as the step itself. They stay where a hook is registered.
    """
    step = type(optimizer).step
    if has_step_hooks(optimizer) or not hasattr(step, "hooked"):
        return optimizer.step
    optimizer._opt_called = True  # type: ignore[attr-defined]  # what a schedule checks before its first step
    return partial(step.__wrapped__, optimizer)  # type: ignore[attr-defined]
