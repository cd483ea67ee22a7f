"""Where the minibatches of a chunk come from: one by one as Lightning fetches them, or many at once, stacked."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.trainer import call
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)
from torch.utils.data.dataloader import _DatasetKind, _SingleProcessDataLoaderIter

from multistep._reach import reaches_the_training
from multistep._tree import Layout, flatten, is_simple, rebuild
from multistep._undo import Place

TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
# Precisions that leave minibatches as they are.
IDENTITIES = (Precision.convert_input, MixedPrecision.convert_input)
# They draw at an epoch's beginning from torch's default generator, and then, if at all, from one of their own.
SAMPLERS = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)
MOST = 1_000  # minibatches in a chunk
MOST_BYTES = 2**26
LONGEST = 0.25  # seconds in which minibatches are fetched before those are performed


@dataclass(eq=False)
class Stacked:
    """Minibatches of one layout: their tensors, each (K, ...)."""

    tensors: list[Tensor]
    count: int


@dataclass(eq=False)
class Odd:
    """A minibatch of another layout."""

    batch: Any


Pieces = list[Stacked | Odd]


def take_one(fetcher: Any) -> tuple[Any] | None:
    """Returns a tuple of the next minibatch, or None where it is the last of the epoch, which stays for Lightning."""
    if fetcher.length is not None:
        if fetcher.fetched + 1 >= fetcher.length:
            return None
        try:
            return (next(fetcher)[0],)
        except StopIteration:  # the length that it gives is not true
            fetcher.iterator = iter(())  # one that has ended may begin again where it is asked once more
            return None
    return (fetcher.batches.pop(0)[0],) if _fetch_ahead(fetcher) else None


def _fetch_ahead(fetcher: Any) -> bool:
    """Fetches a minibatch in advance, which tells whether another follows; returns False where none does."""
    try:
        fetcher.batches.append(_DataFetcher.__next__(fetcher))
    except StopIteration:
        fetcher.iterator = iter(())
        return False
    return True


def as_lightning_hands_it(trainer: Any, batch: Any) -> Any:
    """Returns a minibatch as it comes to `training_step`: converted and on the device, through all hooks."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return call._call_strategy_hook(trainer, "batch_to_device", batch, dataloader_idx=0)


def refused_data(trainer: Any) -> str | None:
    """Returns why minibatches cannot be fetched before the updates that come before them, or None.

    Hooks around their transfer, and data that can reach the module or the trainer, may depend on those updates.
    """
    data = trainer._data_connector._datahook_selector
    owners: list[tuple[Any, type]] = [(data.model, LightningModule)]
    owners += [(data.datamodule, LightningDataModule)] if data.datamodule is not None else []
    for owner, kind in owners:
        for hook in TRANSFER_HOOKS:
            if is_overridden(hook, owner, kind):
                return f"{type(owner).__name__} overrides {hook}"
    state = [*trainer.lightning_module.parameters(), *trainer.lightning_module.buffers()]
    reached = reaches_the_training(data_of(trainer), [*trainer.lightning_module.modules()], state)
    return "the data can reach the module or the trainer" if reached else None


def data_of(trainer: Any) -> list[Any]:
    """Returns what fetches minibatches: of loaders that are all torch's own, their tensors alone."""
    if _draw_of(trainer.fit_loop._data_fetcher) is not None:
        return []  # it says itself that minibatches can be drawn in advance
    return [*chain.from_iterable(map(_parts_of, trainer.fit_loop._combined_loader.flattened))]


def _parts_of(loader: Any) -> Sequence[Any]:
    are_tensors = type(loader) is DataLoader and type(loader.dataset) is TensorDataset
    plain = are_tensors and loader.collate_fn is default_collate and type(loader.batch_sampler) is BatchSampler
    return loader.dataset.tensors if plain and type(loader.batch_sampler.sampler) in SAMPLERS else [loader]


class Source:
    """Fetches stacked minibatches for a trainer on the CPU.

    A loader, or its iterator, that has `draw(n)` is asked for them: it returns a minibatch whose tensors have another
    first dimension of n, or less where it ends. A DataLoader over a TensorDataset, without workers and with the default
    collation, is read with one indexing, in the order of its own sampler; over a dataset with `__getitems__` likewise,
    a minibatch at a time. Any other is asked for minibatches one by one.

    Args:
        trainer: whose minibatches they are.
        shared: what an update reads and the data can change. A minibatch at which that happens is an odd one, and so
            are those that follow.
    """

    def __init__(self, trainer: Any, shared: Sequence[Place] = ()) -> None:
        self._trainer = trainer
        self._shared = shared
        self._described = [place.described() for place in shared]
        self._as_they_are = type(trainer.precision_plugin).convert_input in IDENTITIES
        self._error: BaseException | None = None
        self._apart: Any = None  # the loader whose first minibatch left torch's default generator alone

    def take(self, fetcher: Any, most: int, layout: Layout, step_draws: bool) -> Pieces:
        """Returns up to `most` minibatches in their order, without the last of the epoch, which stays for Lightning.

        Args:
            fetcher: Lightning's.
            most: the greatest number.
            layout: of those that are stacked.
            step_draws: whether the step draws from torch's generator; where the data may, too, one minibatch is taken.
        """
        self.raise_error()
        if not (step_draws and may_draw(fetcher)):
            return self._many(fetcher, most, layout)
        before, loader = torch.get_rng_state(), _only_loader(fetcher)[0]
        if _draw_of(fetcher) is None or self._apart is not loader:
            pieces = self._one_by_one(fetcher, 1, layout)
            self._apart = loader if pieces and torch.equal(before, torch.get_rng_state()) else None
            return pieces
        pieces = self._many(fetcher, most, layout)
        if not torch.equal(before, torch.get_rng_state()):
            raise TypeError("draw(n) draws at times from torch's default generator, as the step does; give it its own")
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
        """Raises what the loader has raised at the next minibatch; nothing where it has not."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _one_by_one(self, fetcher: Any, most: int, layout: Layout) -> Pieces:
        return _pieces(self._batches(fetcher, most, layout), layout, most)

    def _batches(self, fetcher: Any, most: int, layout: Layout) -> Iterator[Any]:
        """Minibatches up to one of another layout, which is performed before the next is fetched."""
        until = time.monotonic() + LONGEST
        for number in range(most):
            try:
                if (found := take_one(fetcher)) is None:
                    return
                batch = as_lightning_hands_it(self._trainer, found[0])
            except BaseException as error:  # of the loader
                if number == 0:
                    raise
                self._error = error  # raised when what came before it has been performed
                return
            odd = self.has_changed() or _tensors_of(batch, layout) is None
            yield Odd(batch) if odd else batch
            if odd or time.monotonic() > until:
                return

    def _drawn(self, fetcher: Any, most: int, layout: Layout) -> Pieces | None:
        draw = _draw_of(fetcher)
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
            raise TypeError("draw(n) returns minibatches of another layout than the loader's iterator")
        fetcher.fetched += count
        if fetcher.length is None:  # one stays in advance
            fetcher.batches.clear()
            if not _fetch_ahead(fetcher):
                last = [tensor[-1] for tensor in tensors]
                fetcher.batches.append((rebuild(layout, last), 0, 0))
                tensors, count = [tensor[:-1] for tensor in tensors], count - 1
        stacked = [torch.cat([*(row[i][None] for row in ahead), tensor]) for i, tensor in enumerate(tensors)]
        return [Stacked(stacked if ahead else tensors, count + len(ahead))]

    def _indexed(self, fetcher: Any, most: int, layout: Layout) -> Pieces | None:
        loader, iterator = _only_loader(fetcher)
        if (
            type(iterator) is not _SingleProcessDataLoaderIter
            or not isinstance(loader, DataLoader)
            or fetcher.length is None
            or loader._dataset_kind != _DatasetKind.Map
            or not loader._auto_collation
            or loader.collate_fn is not default_collate
            or loader.pin_memory
        ):
            return None
        dataset: Any = loader.dataset
        is_tensors = type(dataset) is TensorDataset
        if not is_tensors and not (getattr(dataset, "__getitems__", None) and _orders_at_once(loader)):
            return None
        size = layout.tensors[0][0][0] if layout.tensors and layout.tensors[0][0] else 0
        taken = self._next_indices(fetcher, iterator, most, size)
        even = taken if not taken or len(taken[-1]) == size else taken[:-1]
        stacked: Pieces = []
        if even and is_tensors and _tensors_of([tensor[:size] for tensor in dataset.tensors], layout) is not None:
            with suppress(Exception):  # of one of them, which is found one by one
                flat = torch.tensor(even).flatten()
                tensors = [tensor[flat].view(len(even), size, *tensor.shape[1:]) for tensor in dataset.tensors]
                stacked = [Stacked(tensors, len(even))]
        rest = taken[len(even) :] if stacked else taken
        return stacked + _pieces(self._fetched(iterator._dataset_fetcher.fetch, rest), layout, max(1, len(rest)))

    def _next_indices(self, fetcher: Any, iterator: Any, most: int, size: int) -> list[list[int]]:
        """The indices of up to `most` minibatches, without the epoch's last; only the last may be of another size."""
        taken: list[list[int]] = []
        most = min(most, fetcher.length - fetcher.fetched - 1)
        try:
            while len(taken) < most and (not taken or len(taken[-1]) == size):
                taken.append(copy.deepcopy(iterator._next_index()))  # a sampler may fill it again
                iterator._num_yielded += 1
                fetcher.fetched += 1
        except StopIteration:  # the length that it gives is not true
            pass
        except Exception as error:  # raised when what came before it has been performed
            self._error = error
        return taken

    def _fetched(self, fetch: Callable[[list[int]], Any], indices: Sequence[list[int]]) -> Iterator[Any]:
        for index in indices:
            try:
                yield fetch(index)
            except Exception as error:
                self._error = error
                return


def _pieces(batches: Iterable[Any], layout: Layout, most: int) -> Pieces:
    """Minibatches in their order, those of one layout that follow each other stacked.

    Each is copied as it comes, since a loader may fill the same memory again.
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


def may_draw(fetcher: Any) -> bool:
    """Returns whether fetching a minibatch, but the first of an epoch, may draw from torch's default generator."""
    loader, _ = _only_loader(fetcher)
    if isinstance(loader, (list, tuple)):
        return False
    if not isinstance(loader, DataLoader):
        return True
    draws_not = type(loader.dataset) is TensorDataset and loader.collate_fn is default_collate
    return not (loader.num_workers > 0 or draws_not) or not _orders_at_once(loader)


def _orders_at_once(loader: Any) -> bool:
    """Returns whether a DataLoader draws the order of an epoch at its beginning, and nothing later."""
    if type(loader.batch_sampler) is not BatchSampler:
        return False
    sampler: Any = loader.batch_sampler.sampler
    later = type(sampler) is RandomSampler and (sampler.replacement or sampler.num_samples > len(sampler.data_source))
    return type(sampler) in SAMPLERS and not later


def longest_chunk(layout: Layout, outputs: Sequence[Tensor]) -> int:
    """Returns the most minibatches in a chunk, so that they fit memory."""
    size = sum(shape.numel() * dtype.itemsize for shape, dtype, _ in layout.tensors)
    size += sum(tensor.numel() * tensor.itemsize for tensor in outputs)
    return max(1, min(MOST, MOST_BYTES // max(size, 1)))


def _only_loader(fetcher: Any) -> tuple[Any, Any]:
    """The one loader of a fetcher and its iterator; None where there are several."""
    combined = fetcher.combined_loader
    iterators = getattr(combined._iterator, "iterators", [])
    if len(combined.flattened) != 1 or len(iterators) != 1 or combined.iterables is not combined.flattened[0]:
        return None, None
    return combined.flattened[0], iterators[0]


def _draw_of(fetcher: Any) -> Any:
    """The `draw` of a fetcher's one iterator, or of its loader; None where there is none."""
    loader, iterator = _only_loader(fetcher)
    return getattr(iterator, "draw", None) or getattr(loader, "draw", None)


def _tensors_of(batch: Any, layout: Layout) -> list[Tensor] | None:
    try:
        tensors, own = flatten(batch)
    except TypeError:
        return None
    return tensors if own == layout and all(map(is_simple, tensors)) else None
