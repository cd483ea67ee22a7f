"""How examples are drawn: random minibatches for training, whole splits for evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ngram_mlp.data.ngrams import NGrams
from ngram_mlp.training.trainer import Chunking


@dataclass(eq=False)
class MinibatchStream:
    """Minibatches drawn with replacement: contexts (B, T) and targets (B,), both int64, or chunks of such minibatches.

    A chunk holds the minibatches of several updates: contexts (K, B, T), targets (K, B). Minibatch n holds the examples
    `torch.randint(0, len(ngrams), (batch_size,), generator=generator)` of the n-th call, however the updates are cut
    into chunks (promise 2).
    """

    ngrams: NGrams
    batch_size: int
    generator: torch.Generator  # of the CPU; only this stream draws from it
    chunking: Chunking  # where the chunks and the stream end
    first_update: int = 0
    part: tuple[int, int] = (0, 1)  # (rank, processes): a process gets its part of every minibatch

    def __post_init__(self) -> None:
        self._states = {self.first_update: self.generator.get_state()}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rank, processes = self.part
        part = slice(rank * self.batch_size // processes, (rank + 1) * self.batch_size // processes)
        while (update := max(self._states)) < self.chunking.updates:
            end = self.chunking.end(update)
            shape = ((end - update) * self.chunking.minibatches, self.batch_size)
            drawn = torch.randint(0, len(self.ngrams), shape, generator=self.generator)[:, part]  # (K, part of B)
            examples = drawn.flatten()
            contexts = self.ngrams.contexts.index_select(0, examples).long().view(*drawn.shape, -1)
            targets = self.ngrams.targets.index_select(0, examples).long().view(drawn.shape)
            self._states[end] = self.generator.get_state()
            for old in sorted(self._states)[:-4]:  # the trainer fetches a chunk ahead of the one whose state is saved
                del self._states[old]
            if self.chunking.singly or len(drawn) == 1:
                yield from zip(contexts, targets, strict=True)
            else:
                yield contexts, targets

    def generator_state(self, update: int) -> Tensor:
        """The generator's state before minibatch `update`, with which one of the latest chunks begins."""
        return self._states[update]


class SplitBatches:
    """The examples of a split in order, as (contexts (n, T), targets (n,)) in int64, n at most `size`.

    By default so many that the activations of the notebooks' network fit into a core's cache.
    """

    def __init__(self, ngrams: NGrams, size: int = 1024) -> None:
        self._ngrams = ngrams
        self._size = size

    def __len__(self) -> int:
        return -(-len(self._ngrams) // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(self._ngrams), self._size):
            batch = slice(first, first + self._size)
            yield self._ngrams.contexts[batch].long(), self._ngrams.targets[batch].long()
