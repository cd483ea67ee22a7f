"""Draws examples: random minibatches for training, whole splits for evaluation."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ngram_mlp.data.ngrams import NGrams

Sampling: TypeAlias = Literal["replacement", "epochs"]
Minibatch: TypeAlias = tuple[Tensor, Tensor]
State: TypeAlias = dict[str, Any]
LARGEST_LOGITS = 2**24


class Minibatches:
    """Loads random minibatches of contexts (B, T) and targets (B,), both int64; its length is that of an epoch.

    - `replacement`: minibatch n holds the examples `torch.randint(0, N, (B,), generator=generator)` of the n-th call,
      as in the notebooks (promise 2). An epoch is max(1, N // B) minibatches, and the next one continues the stream.
    - `epochs`: an epoch goes through `torch.randperm(N, generator=generator)`, B examples at a time, like a DataLoader
      over a TensorDataset with `shuffle=True`. The last minibatch may be smaller; several processes leave it out, and a
      single example, over which batch norm has no spread, is always left out.

    `state_dict` returns what a resumed run needs to continue with the next minibatch.

    Args:
        ngrams: the N examples.
        batch_size: B.
        generator: a CPU generator; nothing else may draw from it.
        sampling: one of the two above.
        part: (rank, processes); each process gets its shard of every minibatch.
        is_waiting: returns True while the last fetched minibatch has not been trained on. A state saved meanwhile is
            the one before that minibatch.
        most: returns the number of minibatches after which the trainer ends an epoch, if it does so earlier.
    """

    def __init__(
        self,
        ngrams: NGrams,
        batch_size: int,
        generator: torch.Generator,
        sampling: Sampling = "replacement",
        part: tuple[int, int] = (0, 1),
        is_waiting: Callable[[], bool] = lambda: False,
        most: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self.ngrams = ngrams
        self.batch_size = batch_size
        self.generator = generator
        self.sampling = sampling
        self.part = part
        self._is_waiting = is_waiting
        self.most = most
        self._resumed: State | None = None
        self.before: State | None = None  # the state before the last fetched minibatch
        self.now: State | None = None  # the state before the next one

    def __len__(self) -> int:
        whole, rest = divmod(len(self.ngrams), self.batch_size)
        return max(1, whole + (self.sampling == "epochs" and rest > 1 and self.part[1] == 1))

    def __iter__(self) -> "Epoch":
        return Epoch(self)

    def state_dict(self) -> State:
        """Returns the generator's state, uint8, and the minibatches done of its permutation (0 with `replacement`)."""
        state = self.before if self._is_waiting() else self.now
        return dict(state or {"generator": self.generator.get_state(), "position": 0})

    def load_state_dict(self, state: State) -> None:
        self.generator.set_state(state["generator"])
        self._resumed = self.now = self.before = dict(state)

    def begin(self) -> int:
        """Begins an epoch, and returns the number of its first minibatch: 0, or the position of a loaded state."""
        resumed, self._resumed = self._resumed, None
        self.now = resumed or {"generator": self.generator.get_state(), "position": 0}
        return int(self.now["position"])

    def examples(self, drawn: Tensor) -> Minibatch:
        """Returns this process's shard, of size b, of minibatches (n, B): contexts (n, b, T) and targets (n, b)."""
        (rank, processes), size = self.part, drawn.shape[1]
        drawn = drawn[:, rank * size // processes : (rank + 1) * size // processes]
        flat = drawn.flatten()
        contexts = self.ngrams.contexts.index_select(0, flat).long().view(*drawn.shape, self.ngrams.contexts.shape[1])
        return contexts, self.ngrams.targets.index_select(0, flat).long().view(drawn.shape)


class Epoch(Iterator[Minibatch]):
    """Iterates over the minibatches of an epoch, one or several at a time."""

    def __init__(self, loader: Minibatches) -> None:
        self._loader = loader
        self._position: int | None = None  # of the next minibatch; None before the first is drawn
        self._order: Tensor | None = None  # a permutation of the examples
        self._length = int(min(len(loader), loader.most()))

    def __next__(self) -> Minibatch:
        contexts, targets = self.draw_minibatches(1)
        if len(contexts) == 0:
            raise StopIteration
        return contexts[0], targets[0]

    def draw_minibatches(self, n: int) -> Minibatch:
        """Returns the next n minibatches of equal size, or as many as are left: (n, B, T) and (n, B).

        `multistep` calls it for a whole chunk.
        """
        loader = self._loader
        if self._position is None:
            self._position = loader.begin()
            if loader.sampling == "epochs":
                self._order = torch.randperm(len(loader.ngrams), generator=loader.generator)
        loader.before = loader.now
        n = min(n, self._length - self._position)
        drawn = self._with_replacement(n) if self._order is None else self._in_order(self._order, n)
        self._position += len(drawn)
        loader.now = self._state()
        return loader.examples(drawn)

    def _with_replacement(self, n: int) -> Tensor:
        loader = self._loader
        return torch.randint(0, len(loader.ngrams), (n, loader.batch_size), generator=loader.generator)

    def _in_order(self, order: Tensor, n: int) -> Tensor:
        assert self._position is not None
        size = self._loader.batch_size
        drawn = order[self._position * size : (self._position + n) * size]
        whole = len(drawn) // size
        return drawn[None] if n and not whole else drawn[: whole * size].view(whole, size)

    def _state(self) -> State:
        loader = self._loader
        if self._order is None or self._position == self._length:
            return {"generator": loader.generator.get_state(), "position": 0}
        assert loader.before is not None
        return {"generator": loader.before["generator"], "position": self._position}


class SplitBatches:
    """Iterates over a split in order, as (contexts (n, T), targets (n,)) in int64, n at most `size`.

    The default size is 1,024, so that the activations of the notebooks' network fit into a core's cache, or smaller if
    a vocabulary is so large that the logits would take more than 64 MiB.
    """

    def __init__(self, ngrams: NGrams, size: int | None = None) -> None:
        self._ngrams = ngrams
        self._size = size or min(1024, LARGEST_LOGITS // (int(ngrams.targets.max()) + 1) + 1)

    def __len__(self) -> int:
        return -(-len(self._ngrams) // self._size)

    def __iter__(self) -> Iterator[Minibatch]:
        for first in range(0, len(self._ngrams), self._size):
            batch = slice(first, first + self._size)
            yield self._ngrams.contexts[batch].long(), self._ngrams.targets[batch].long()
