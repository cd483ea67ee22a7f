"""Learning-rate schedules: one that torch lacks as a class, and the rates of updates to come."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, MultiStepLR, StepLR

from ngram_mlp.errors import UserError
from ngram_mlp.releases import unknown_release


class WarmupCosine(LRScheduler):
    """A linear warm-up, then half a cosine from the optimizer's rate down to a fraction of it (arXiv:1608.03983).

    Update n < warmup has the rate lr * (n + 1) / warmup; from update `total` on, the rate is `final * lr`.

    Args:
        optimizer: whose rates are scheduled.
        warmup: the updates until the full rate is reached.
        total: the updates until the final rate is reached; usually all updates of the run.
        final: the final rate as a fraction of the full one.
    """

    def __init__(self, optimizer: Optimizer, warmup: int, total: int, final: float = 0.0) -> None:
        if not 0 <= warmup < total:
            raise UserError(f"give 0 or more updates, fewer than total, {total}", warmup=warmup)
        self.warmup, self.total, self.final = warmup, total, final
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        update = self.last_epoch
        if update < self.warmup:
            factor = (update + 1) / self.warmup
        else:
            done = min(1.0, (update - self.warmup) / (self.total - self.warmup))
            factor = self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2
        return [float(rate) * factor for rate in self.base_lrs]


def upcoming_rates(optimizer: Optimizer, scheduler: LRScheduler, updates: int) -> Tensor:
    """The learning rates of the next updates, float64 (updates, parameter groups); steps the schedule past them."""
    optimizer._opt_called = True  # type: ignore[attr-defined]  # what a schedule checks before its first step
    rates = torch.empty(updates, len(optimizer.param_groups), dtype=torch.float64)
    update = 0
    while update < updates:
        constant = min(_steps_without_effect(scheduler), updates - update - 1)
        present = [group["lr"] for group in optimizer.param_groups]
        rates[update : update + constant + 1] = torch.tensor(present, dtype=torch.float64)
        if constant:  # setting the schedule saves stepping it, which costs 5 % of a fused update
            scheduler.last_epoch += constant
            scheduler._step_count += constant
        scheduler.step()
        update += constant + 1
    return rates


def changes_more_than_the_learning_rate(scheduler: Any) -> bool:
    """Whether a schedule, or one that it is composed of, cycles the momentum as well."""
    inner = getattr(scheduler, "_schedulers", [])
    return getattr(scheduler, "cycle_momentum", False) or any(map(changes_more_than_the_learning_rate, inner))


def _steps_without_effect(scheduler: LRScheduler) -> int:
    """How many of the schedule's next steps are known not to change the learning rate."""
    last = scheduler.last_epoch
    if unknown_release():
        return 0
    if type(scheduler) is MultiStepLR:
        return int(min((m for m in scheduler.milestones if m > last), default=2**62)) - last - 1
    if type(scheduler) is StepLR:
        return scheduler.step_size - last % scheduler.step_size - 1
    if type(scheduler) is ConstantLR and scheduler.factor == 1:
        return 2**62
    return 0
