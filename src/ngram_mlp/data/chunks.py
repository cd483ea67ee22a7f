"""A whole split, piece by piece."""

from collections.abc import Iterator

from torch import Tensor

from ngram_mlp.data.ngrams import NGrams

__all__ = ["Chunks"]


class Chunks:
    """The examples of a split in order, as (contexts (n, T), targets (n,)) in int64, n at most `size`."""

    def __init__(self, ngrams: NGrams, size: int = 8192) -> None:
        self._ngrams = ngrams
        self._size = size

    def __len__(self) -> int:
        return -(-len(self._ngrams) // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(self._ngrams), self._size):
            chunk = slice(first, first + self._size)
            yield self._ngrams.contexts[chunk].long(), self._ngrams.targets[chunk].long()
