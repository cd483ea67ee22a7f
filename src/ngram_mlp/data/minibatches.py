"""How examples are drawn: random minibatches for training, whole splits for evaluation."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ngram_mlp.data.ngrams import NGrams
from ngram_mlp.training.trainer import Chunking


class MinibatchStream:
    """Minibatches drawn with replacement, in chunks of K: contexts (K, B, T) and targets (K, B), both int64.

    Minibatch n holds the examples `torch.randint(0, len(ngrams), (batch_size,), generator=generator)` of the n-th call,
    however the updates are cut into chunks (promise 2).

    Args:
        ngrams: the training examples.
        batch_size: the examples in a minibatch.
        generator: a CPU generator that only this stream draws from.
        chunking: where a chunk ends, and the stream.
        first_update: the update at which it begins.
        part: which of so many equal parts of every minibatch is handed on, (rank, processes).
    """

    def __init__(
        self,
        ngrams: NGrams,
        batch_size: int,
        generator: torch.Generator,
        chunking: Chunking,
        first_update: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._ngrams = ngrams
        self._batch_size = batch_size
        self._generator = generator
        self._chunking = chunking
        rank, processes = part
        self._part = slice(rank * batch_size // processes, (rank + 1) * batch_size // processes)
        self._update = first_update
        self._states = {first_update: generator.get_state()}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while self._update < self._chunking.updates:
            yield self._draw(self._chunking.end(self._update) - self._update)

    def generator_state(self, update: int) -> Tensor:
        """The generator's state before the draw of minibatch `update`, with which one of the latest chunks begins.

        The trainer fetches a chunk ahead of the one in training, so the state to save is not the present one.
        """
        return self._states[update]

    def _draw(self, length: int) -> tuple[Tensor, Tensor]:
        shape = (length, self._batch_size)
        drawn = torch.randint(0, len(self._ngrams), shape, generator=self._generator)[:, self._part]
        examples = drawn.flatten()
        contexts = self._ngrams.contexts.index_select(0, examples).long().view(*drawn.shape, -1)
        targets = self._ngrams.targets.index_select(0, examples).long().view(drawn.shape)
        self._update += length
        self._states[self._update] = self._generator.get_state()
        for update in sorted(self._states)[:-4]:
            del self._states[update]
        return contexts, targets


class SplitBatches:
    """The examples of a split in order, as (contexts (n, T), targets (n,)) in int64, n at most `size`."""

    def __init__(self, ngrams: NGrams, size: int = 8192) -> None:
        self._ngrams = ngrams
        self._size = size

    def __len__(self) -> int:
        return -(-len(self._ngrams) // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(self._ngrams), self._size):
            batch = slice(first, first + self._size)
            yield self._ngrams.contexts[batch].long(), self._ngrams.targets[batch].long()
