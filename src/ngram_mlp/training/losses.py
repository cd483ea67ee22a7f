"""The training loss of every update."""

import torch
from torch import Tensor


class Losses:
    """The losses of all updates so far, float32 on the CPU, in a tensor that grows.

    Args:
        losses: those of the updates before, shape (updates,).
        logged: how many of them are in a mean that was logged.
    """

    def __init__(self, losses: Tensor | None = None, logged: int = 0) -> None:
        self._room = torch.empty(0) if losses is None else losses
        self._count = len(self._room)
        self.logged = logged

    def __len__(self) -> int:
        return self._count

    @property
    def all(self) -> Tensor:
        """Shape (updates,)."""
        return self._room[: self._count].clone()

    def append(self, losses: Tensor) -> None:
        """Adds the losses of a chunk, shape (K,)."""
        count = self._count + len(losses)
        if count > len(self._room):
            self._room = torch.cat([self._room, torch.empty(count)])  # at least twice the room
        self._room[self._count : count] = losses
        self._count = count

    def mean_since_logged(self) -> Tensor:
        """The mean of the losses that are in no logged mean yet: it does not depend on how updates are cut into chunks."""
        return self._room[self.logged : self._count].mean()
