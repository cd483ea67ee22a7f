"""Learning-rate schedules that torch does not have as one class."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ngram_mlp.errors import UserError

__all__ = ["WarmupCosine"]


class WarmupCosine(LRScheduler):
    """A linear warm-up, then half a cosine from the optimizer's rate down to a fraction of it (arXiv:1608.03983).

    Update n < warmup has the rate lr * (n + 1) / warmup; the rate reaches `final * lr` at update `total`, and stays.

    Args:
        optimizer: whose rates are scheduled.
        warmup: the updates until the full rate is reached.
        total: the updates until the final rate is reached; usually `--trainer.max_steps`.
        final: the final rate as a fraction of the full one.

    Raises:
        UserError: the warm-up is negative or leaves no update for the cosine.
    """

    def __init__(self, optimizer: Optimizer, warmup: int, total: int, final: float = 0.0) -> None:
        if not 0 <= warmup < total:
            raise UserError(f"--model.lr_scheduler.warmup {warmup}: give 0 or more updates, fewer than total, {total}")
        self.warmup = warmup
        self.total = total
        self.final = final
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """The rate of each parameter group for update `last_epoch`."""
        return [float(rate) * self._factor(self.last_epoch) for rate in self.base_lrs]

    def _factor(self, update: int) -> float:
        if update < self.warmup:
            return (update + 1) / self.warmup
        done = min(1.0, (update - self.warmup) / (self.total - self.warmup))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2
