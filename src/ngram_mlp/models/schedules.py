"""Defines a learning-rate schedule that torch lacks as a class."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from runlab import UserError


class WarmupCosine(LRScheduler):
    """Warms up linearly, then decays along half a cosine to a fraction of the optimizer's rate (arXiv:1608.03983).

    Update n < warmup has the rate lr * (n + 1) / warmup; from update `total` on, the rate is `final * lr`.

    Args:
        optimizer: the optimizer to schedule.
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
