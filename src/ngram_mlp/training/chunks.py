"""Chunks of updates: how many minibatches the trainer hands over at once, and who wants to be called in between.

A callback of any kind declares when it needs its batch hooks by an attribute `update_calls`, a `Calls`. Lightning's own
callbacks, which cannot, are listed here.
"""

from dataclasses import dataclass
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint


@dataclass(frozen=True)
class Calls:
    """The updates at which a callback needs `on_train_batch_start` and `on_train_batch_end`.

    Between two of them, updates are trained in chunks, with one call of each hook for a whole chunk.

    Args:
        after: numbers of updates; `on_train_batch_end` is called when `trainer.global_step` is a multiple of one of them.
        around: numbers of updates; every update that is a multiple of one of them, and the last update, is a chunk of its
            own, so that the hooks are called right before and right after it. None: no update needs to be.
    """

    after: tuple[int, ...] = ()
    around: tuple[int, ...] | None = None

    def __or__(self, other: "Calls") -> "Calls":
        """What two callbacks need together."""
        around = None if self.around is other.around is None else (*(self.around or ()), *(other.around or ()))
        return Calls((*self.after, *other.after), around)


@dataclass(frozen=True)
class Chunking:
    """Where the chunks of a run end.

    Args:
        calls: what all callbacks and the trainer need together.
        updates: the updates of the run.
        longest: the most updates in a chunk.
    """

    calls: Calls
    updates: int
    longest: int

    def end(self, begin: int) -> int:
        """The update before which a chunk ends that begins with the update `begin`."""
        around = self.calls.around
        if around is not None and (begin == self.updates - 1 or any(begin % every == 0 for every in around)):
            return begin + 1
        ends = [begin + every - begin % every for every in (*self.calls.after, *(around or ()), self.longest)]
        return min(*ends, self.updates if around is None else self.updates - 1)


def longest_chunk(batch_size: int) -> int:
    """The most minibatches in a chunk: 1,000, or fewer of large ones, so that progress is still seen."""
    return max(1, min(1_000, 2**16 // batch_size))


def chunking(trainer: Any, batch_size: int) -> Chunking:
    """Where chunks end so that the trainer and its callbacks are called at every update that they need."""
    intervals = trainer.log_every_n_steps, trainer.val_check_interval
    calls = Calls(tuple(every for every in intervals if isinstance(every, int) and every > 0))
    for callback in trainer.callbacks:
        calls |= _calls_of(callback)
    return Chunking(calls, trainer.max_steps, longest_chunk(batch_size))


def _calls_of(callback: Any) -> Calls:
    if isinstance(callback, ModelCheckpoint):
        every = callback._every_n_train_steps
        return Calls((every,) if every else ())
    calls: Calls = getattr(callback, "update_calls", Calls())
    return calls
