"""Exchanges tensors among the processes that train one model, each on its shard of every minibatch."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor

from runlab import UserError

ANOTHER_HAS_ENDED = "another process of this run has ended, so this one stops too"


def processes() -> int:
    """Returns the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Returns the rank of this process, even before the processes connect; only rank 0 prints and writes."""
    return getattr(rank_zero_only, "rank", None) or 0


def total(x: Tensor) -> Tensor:
    """Returns the sum of x over the processes, the same on each; gradients flow back to every process's x."""
    return _Total.apply(x)  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replaces tensors, in place, by their means over the processes, in one exchange."""
    flat = _exchange(torch.cat([tensor.flatten() for tensor in tensors]))
    flat /= processes()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):  # type: ignore[no-untyped-call]
        tensor.copy_(part.view_as(tensor))


def _exchange(x: Tensor) -> Tensor:
    """Sums x over the processes, in place; raises a UserError if another process has ended."""
    try:
        dist.all_reduce(x)
    except RuntimeError as error:  # torch's backends have no specific error for this
        raise UserError(ANOTHER_HAS_ENDED) from error
    return x


def raise_if_another_has_ended(error: BaseException) -> None:
    """Raises a UserError if the error came from an exchange in Lightning or in torch's DistributedDataParallel."""
    # Gloo, the backend for CPUs, raises a plain RuntimeError whose message begins with a path in its sources.
    if not isinstance(error, RuntimeError) or not dist.is_available():
        return
    if isinstance(error, dist.DistError) or "/gloo/" in str(error):
        raise UserError(ANOTHER_HAS_ENDED) from error


class _Total(torch.autograd.Function):
    """Sums over processes. A sum is its own transpose, so its gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _exchange(x.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _exchange(gradient.clone())
