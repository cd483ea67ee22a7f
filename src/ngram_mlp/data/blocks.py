"""The endless, resumable stream of blocks of minibatches."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ngram_mlp.data.ngrams import NGrams

__all__ = ["BlockStream", "longest_block"]


def longest_block(batch_size: int) -> int:
    """The most minibatches in a block: 1,000, or fewer of large ones, so that progress is still seen."""
    return max(1, min(1_000, 2**16 // batch_size))


class BlockStream:
    """Blocks of K minibatches drawn with replacement: contexts (K, B, T) and targets (K, B), both int64.

    Minibatch n holds the examples `torch.randint(0, len(ngrams), (batch_size,), generator=generator)` of the n-th call,
    however the updates are cut into blocks (promise 2). A block never crosses a multiple of one of the `intervals`,
    nor `last_update`, at which the stream ends.

    Args:
        ngrams: the training examples.
        batch_size: the examples in a minibatch.
        generator: a CPU generator that only this stream draws from.
        intervals: numbers of updates at whose multiples a block has to end.
        last_update: the update before which the stream ends.
        first_update: the update at which it begins.
        looks: numbers of updates at whose multiples a block has to hold that update alone, as does the last block;
            None: nobody looks.
        part: which of so many equal parts of every minibatch is handed on, (rank, processes).
    """

    def __init__(
        self,
        ngrams: NGrams,
        batch_size: int,
        generator: torch.Generator,
        intervals: Sequence[int],
        last_update: int,
        first_update: int = 0,
        looks: Sequence[int] | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._ngrams = ngrams
        self._batch_size = batch_size
        self._generator = generator
        self._intervals = (*intervals, longest_block(batch_size))
        self._last_update = last_update
        self._looks = looks
        rank, processes = part
        self._part = slice(rank * batch_size // processes, (rank + 1) * batch_size // processes)
        self._update = first_update
        self._states = {first_update: generator.get_state()}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while self._update < self._last_update:
            yield self._draw(self._next_cut() - self._update)

    def generator_state(self, update: int) -> Tensor:
        """The generator's state before the draw of minibatch `update`, which begins one of the latest blocks.

        The trainer fetches a block ahead of the one in training, so the state to save is not the present one.
        """
        return self._states[update]

    def _next_cut(self) -> int:
        begin, looks = self._update, self._looks or ()
        cuts = [begin + interval - begin % interval for interval in (*self._intervals, *looks)]
        if any(begin % look == 0 for look in looks):
            return begin + 1
        if self._looks is not None and begin < self._last_update - 1:
            cuts.append(self._last_update - 1)
        return min(self._last_update, *cuts)

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
