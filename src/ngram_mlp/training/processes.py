"""Several processes that train one model, each on its part of every minibatch (torch.distributed)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor

from ngram_mlp.errors import UserError


def processes() -> int:
    """How many processes train together; 1 where this one is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of several processes this is, also before they have connected; only 0 speaks and writes."""
    return getattr(rank_zero_only, "rank", None) or 0


def total(x: Tensor) -> Tensor:
    """The sum of x over the processes, the same for all; gradients flow back to every process' x."""
    summed: Tensor = _Total.apply(x)  # type: ignore[no-untyped-call]
    return summed


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replaces tensors, in place, by their means over the processes, in one exchange."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    _exchange(flat)
    flat /= processes()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):  # type: ignore[no-untyped-call]
        tensor.copy_(part.view_as(tensor))


def greatest(number: int, device: torch.device) -> int:
    """The greatest of the processes' numbers."""
    if processes() == 1:
        return number
    shared = torch.tensor(number, device=device)
    _exchange(shared, dist.ReduceOp.MAX)
    return int(shared)


def _exchange(x: Tensor, operation: Any = dist.ReduceOp.SUM) -> None:
    """Reduces x over the processes, in place.

    Raises:
        UserError: another process is gone; torch's backends have no error of their own for that.
    """
    try:
        dist.all_reduce(x, operation)
    except RuntimeError as error:
        raise UserError("another process of this run has ended, so this one ends, too") from error


class _Total(torch.autograd.Function):
    """A sum over processes is its own transpose: its gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        summed = x.clone()
        _exchange(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.clone()
        _exchange(summed)
        return summed
