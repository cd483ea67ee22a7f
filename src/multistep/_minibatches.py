"""Fetches the minibatches of a chunk: one by one as Lightning fetches them, or many at once, stacked."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    TensorDataset,
    default_collate,
)
from torch.utils.data.dataloader import _DatasetKind, _SingleProcessDataLoaderIter

from multistep._fused import FusedEngine
from multistep._loaders import (
    as_lightning_hands_it,
    draw_of,
    fetch_ahead,
    may_draw,
    only_loader,
    orders_at_once,
    take_one,
)
from multistep._tree import Layout, flatten, is_simple, rebuild
from multistep._undo import Place

# The `convert_input` of precisions that leave minibatches unchanged.
IDENTITIES = (Precision.convert_input, MixedPrecision.convert_input)
MOST = 1_000  # minibatches in a chunk
MOST_BYTES = 2**26
LONGEST = 0.25  # seconds of fetching, after which the minibatches so far are performed


@dataclass(eq=False)
class Stacked:
    """Minibatches of one layout, as stacked tensors, each (K, ...)."""

    tensors: list[Tensor]
    count: int


@dataclass(eq=False)
class Odd:
    """A minibatch that is performed alone: unlike the others, or fetched after data changed what an update reads."""

    batch: Any


Pieces = list[Stacked | Odd]


class Source:
    """Fetches stacked minibatches for a trainer on the CPU.

    If a loader or its iterator has `draw_minibatches(n)`, that is called: it returns a minibatch whose tensors have an
    additional first dimension of n, or less if it ends. A DataLoader over a TensorDataset, without workers and with the
    default collation, is read with one indexing operation, in the order of its own sampler. A DataLoader over a dataset
    with `__getitems__` is read in that order, too, one minibatch at a time. Any other loader is iterated.

    Args:
        trainer: the trainer that the minibatches are for.
        shared: the places that an update reads and the data can change. Once they change, minibatches are `Odd`.
    """

    def __init__(self, trainer: Any, shared: Sequence[Place] = ()) -> None:
        self._trainer = trainer
        self._shared = shared
        self._described = [place.described() for place in shared]
        self._as_they_are = type(trainer.precision_plugin).convert_input in IDENTITIES
        self._error: BaseException | None = None
        self._apart: Any = None  # the loader whose first minibatch drew nothing from torch's default generator

    def take(self, fetcher: Any, most: int, engine: FusedEngine) -> Pieces:
        """Returns up to `most` minibatches in order, and leaves the last one of the epoch to Lightning.

        Args:
            fetcher: Lightning's fetcher.
            most: the maximum number.
            engine: performs the stacked minibatches. If its step and the data may both draw from torch's generator, one
                minibatch is taken, unless `draw_minibatches` has left the generator alone before.
        """
        pieces = self._taken(fetcher, most, engine.layout, engine.draws)
        return [part for piece in pieces for part in _parts_of(piece, engine)]

    def _taken(self, fetcher: Any, most: int, layout: Layout, step_draws: bool) -> Pieces:
        self.raise_error()
        if not (step_draws and may_draw(fetcher)):
            return self._many(fetcher, most, layout)
        before, loader = torch.get_rng_state(), only_loader(fetcher)[0]
        if draw_of(fetcher) is None or self._apart is not loader:
            pieces = self._one_by_one(fetcher, 1, layout)
            self._apart = loader if pieces and torch.equal(before, torch.get_rng_state()) else None
            return pieces
        pieces = self._many(fetcher, most, layout)
        if not torch.equal(before, torch.get_rng_state()):
            raise TypeError(
                "draw_minibatches(n) sometimes uses torch's default generator, which the step also uses; "
                "give it its own generator"
            )
        return pieces

    def _many(self, fetcher: Any, most: int, layout: Layout) -> Pieces:
        many = None
        if self._as_they_are and most > 1 and not self._shared:
            many = self._drawn(fetcher, most, layout) or self._indexed(fetcher, most, layout)
        if not many:
            self.raise_error()
        return many or self._one_by_one(fetcher, most, layout)

    def has_changed(self) -> bool:
        """Returns whether the data have changed something that an update reads."""
        return [place.described() for place in self._shared] != self._described

    def raise_error(self) -> None:
        """Raises the exception that the loader raised at the next minibatch, if any."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _one_by_one(self, fetcher: Any, most: int, layout: Layout) -> Pieces:
        return _pieces(self._batches(fetcher, most, layout), layout, most)

    def _batches(self, fetcher: Any, most: int, layout: Layout) -> Iterator[Any]:
        """Yields minibatches up to the first `Odd` one, which is performed before the next is fetched."""
        until = time.monotonic() + LONGEST
        for number in range(most):
            try:
                if (found := take_one(fetcher)) is None:
                    return
                batch = as_lightning_hands_it(self._trainer, found[0])
            except BaseException as error:  # from the loader
                if number == 0:
                    raise
                self._error = error  # raised when the minibatches before it have been performed
                return
            odd = self.has_changed() or _tensors_of(batch, layout) is None
            yield Odd(batch) if odd else batch
            if odd or time.monotonic() > until:
                return

    def _drawn(self, fetcher: Any, most: int, layout: Layout) -> Pieces | None:
        draw = draw_of(fetcher)
        if draw is None:
            return None
        ahead: list[list[Tensor]] = []
        if fetcher.length is None:
            for found in fetcher.batches:
                tensors = _tensors_of(found[0], layout)
                if tensors is None:
                    return None
                ahead.append(tensors)
        else:
            most = min(most, fetcher.length - fetcher.fetched - 1)
        if most <= len(ahead):
            return None
        tensors, drawn = flatten(draw(most - len(ahead)))
        count = len(tensors[0])
        each = [(tensor.shape[1:], tensor.dtype, tensor.device) for tensor in tensors]
        if drawn.structure != layout.structure or each != list(layout.tensors):
            raise TypeError(
                "draw_minibatches(n) returns minibatches whose layout differs from that of the loader's iterator"
            )
        fetcher.fetched += count
        if fetcher.length is None:  # one minibatch stays fetched in advance
            fetcher.batches.clear()
            if not fetch_ahead(fetcher):
                last = [tensor[-1] for tensor in tensors]
                fetcher.batches.append((rebuild(layout, last), 0, 0))
                tensors, count = [tensor[:-1] for tensor in tensors], count - 1
        stacked = [torch.cat([*(row[i][None] for row in ahead), tensor]) for i, tensor in enumerate(tensors)]
        return [Stacked(stacked if ahead else tensors, count + len(ahead))]

    def _indexed(self, fetcher: Any, most: int, layout: Layout) -> Pieces | None:
        loader, iterator = only_loader(fetcher)
        if (
            type(iterator) is not _SingleProcessDataLoaderIter
            or not isinstance(loader, DataLoader)
            or fetcher.length is None
            or loader._dataset_kind != _DatasetKind.Map
            or not loader._auto_collation
            or loader.collate_fn is not default_collate
            or iterator._collate_fn is not default_collate
            or loader.pin_memory
        ):
            return None
        dataset: Any = loader.dataset
        is_tensors = type(dataset) is TensorDataset
        if not is_tensors and not (getattr(dataset, "__getitems__", None) and orders_at_once(loader)):
            return None
        size = layout.tensors[0][0][0] if layout.tensors and layout.tensors[0][0] else 0
        taken = self._next_indices(fetcher, iterator, most, size)
        even = taken if not taken or len(taken[-1]) == size else taken[:-1]
        stacked: Pieces = []
        if even and is_tensors and _tensors_of([tensor[:size] for tensor in dataset.tensors], layout) is not None:
            with suppress(Exception):  # a minibatch that fails is found below, one by one
                flat = torch.tensor(even).flatten()
                tensors = [tensor[flat].view(len(even), size, *tensor.shape[1:]) for tensor in dataset.tensors]
                stacked = [Stacked(tensors, len(even))]
        rest = taken[len(even) :] if stacked else taken
        return stacked + _pieces(self._fetched(iterator._dataset_fetcher.fetch, rest), layout, max(1, len(rest)))

    def _next_indices(self, fetcher: Any, iterator: Any, most: int, size: int) -> list[list[int]]:
        """Returns the indices of up to `most` minibatches, not the epoch's last; only the last may differ in size."""
        taken: list[list[int]] = []
        most = min(most, fetcher.length - fetcher.fetched - 1)
        try:
            while len(taken) < most and (not taken or len(taken[-1]) == size):
                taken.append(copy.deepcopy(iterator._next_index()))  # a sampler may refill the list
                iterator._num_yielded += 1
                fetcher.fetched += 1
        except StopIteration:  # the loader's length is wrong
            pass
        except BaseException as error:  # raised when the minibatches before it have been performed
            self._error = error
        return taken

    def _fetched(self, fetch: Callable[[list[int]], Any], indices: Sequence[list[int]]) -> Iterator[Any]:
        for index in indices:
            try:
                yield fetch(index)
            except BaseException as error:
                self._error = error
                return


def _pieces(batches: Iterable[Any], layout: Layout, most: int) -> Pieces:
    """Returns minibatches in order, with consecutive ones of this layout stacked.

    Each is copied as it arrives, because a loader may reuse its memory.
    """
    pieces: Pieces = []
    for batch in batches:
        tensors = None if isinstance(batch, Odd) else _tensors_of(batch, layout)
        if tensors is None:
            pieces.append(batch if isinstance(batch, Odd) else Odd(batch))
            continue
        if not (pieces and isinstance(pieces[-1], Stacked)):
            pieces.append(Stacked([torch.empty(most, *shape, dtype=dtype) for shape, dtype, _ in layout.tensors], 0))
        last = pieces[-1]
        assert isinstance(last, Stacked)
        for whole, tensor in zip(last.tensors, tensors, strict=True):
            whole[last.count] = tensor
        last.count += 1
    for piece in pieces:
        if isinstance(piece, Stacked):
            piece.tensors = [tensor[: piece.count] for tensor in piece.tensors]
    return pieces


def _parts_of(piece: Stacked | Odd, engine: FusedEngine) -> Pieces:
    """Returns a piece, or its parts if the engine leaves some of its minibatches to be performed alone."""
    if isinstance(piece, Odd) or (unusual := engine.accepted.unusual(piece.tensors)) is None:
        return [piece]
    parts: Pieces = []
    begin = 0
    for number in [*unusual.nonzero().flatten().tolist(), piece.count]:
        if number > begin:
            parts.append(Stacked([tensor[begin:number] for tensor in piece.tensors], number - begin))
        if number < piece.count:
            parts.append(Odd(rebuild(engine.layout, [tensor[number] for tensor in piece.tensors])))
        begin = number + 1
    return parts


def longest_chunk(layout: Layout, outputs: Sequence[Tensor]) -> int:
    """Returns the maximum number of minibatches in a chunk, limited so that they fit in memory."""
    size = sum(shape.numel() * dtype.itemsize for shape, dtype, _ in layout.tensors)
    size += sum(tensor.numel() * tensor.itemsize for tensor in outputs)
    return max(1, min(MOST, MOST_BYTES // max(size, 1)))


def _tensors_of(batch: Any, layout: Layout) -> list[Tensor] | None:
    try:
        tensors, own = flatten(batch)
    except TypeError:
        return None
    return tensors if own == layout and all(map(is_simple, tensors)) else None
