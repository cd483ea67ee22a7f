"""Inspects a trainer's loaders: their next minibatch, what they can reach, and whether they draw random numbers."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.trainer import call
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

from multistep._calls import is_overridden
from multistep._reach import reaches_the_training

TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
# They draw from torch's default generator at an epoch's beginning, and later only from their own, if at all.
SAMPLERS = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)


def take_one(fetcher: Any) -> tuple[Any] | None:
    """Returns the next minibatch in a tuple, or None if it is the epoch's last, which is left to Lightning."""
    if fetcher.length is not None:
        if fetcher.fetched + 1 >= fetcher.length:
            return None
        try:
            return (next(fetcher)[0],)
        except StopIteration:  # the loader's length is wrong
            fetcher.iterator = iter(())  # an exhausted iterator may start again if asked once more
            return None
    return (fetcher.batches.pop(0)[0],) if fetch_ahead(fetcher) else None


def fetch_ahead(fetcher: Any) -> bool:
    """Fetches a minibatch in advance, to know whether another one follows; returns False if there is none."""
    try:
        fetcher.batches.append(_DataFetcher.__next__(fetcher))
    except StopIteration:
        fetcher.iterator = iter(())
        return False
    return True


def as_lightning_hands_it(trainer: Any, batch: Any) -> Any:
    """Returns a minibatch as `training_step` receives it: converted, on the device, and after all transfer hooks."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return call._call_strategy_hook(trainer, "batch_to_device", batch, dataloader_idx=0)


def refused_data(trainer: Any) -> str | None:
    """Returns why minibatches cannot be fetched before the updates that precede them, or None.

    Transfer hooks, and data that can access the module or the trainer, may depend on those updates.
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
    return "the dataset or loader can access the module or the trainer" if reached else None


def loaders_of(trainer: Any) -> list[Any]:
    """Returns a trainer's loaders of training data, and their datasets."""
    loaders = trainer.fit_loop._combined_loader.flattened
    return [*loaders, *(getattr(loader, "dataset", None) for loader in loaders)]


def data_of(trainer: Any) -> list[Any]:
    """Returns what fetches minibatches; for loaders that are all torch's own, only their tensors."""
    if draw_of(trainer.fit_loop._data_fetcher) is not None:
        return []  # it promises that minibatches can be drawn in advance
    return [*chain.from_iterable(map(_parts_of, trainer.fit_loop._combined_loader.flattened))]


def may_repeat(trainer: Any) -> bool:
    """Returns whether a loader may return tensors that it has returned before, instead of collating new ones."""
    collates = all(
        isinstance(loader, DataLoader) and loader.batch_sampler is not None and loader.collate_fn is default_collate
        for loader in trainer.fit_loop._combined_loader.flattened
    )
    return draw_of(trainer.fit_loop._data_fetcher) is None and not collates


def _parts_of(loader: Any) -> Sequence[Any]:
    are_tensors = type(loader) is DataLoader and type(loader.dataset) is TensorDataset
    plain = are_tensors and loader.collate_fn is default_collate and type(loader.batch_sampler) is BatchSampler
    return loader.dataset.tensors if plain and type(loader.batch_sampler.sampler) in SAMPLERS else [loader]


def may_draw(fetcher: Any) -> bool:
    """Returns whether fetching a minibatch, except an epoch's first, may draw from torch's default generator."""
    loader, _ = only_loader(fetcher)
    if type(loader) in (list, tuple):
        return False
    if type(loader) is not DataLoader:  # a subclass may draw while it iterates
        return True
    draws_not = type(loader.dataset) is TensorDataset and loader.collate_fn is default_collate
    return not (loader.num_workers > 0 or draws_not) or not orders_at_once(loader)


def orders_at_once(loader: Any) -> bool:
    """Returns whether a DataLoader draws the whole order of an epoch at its beginning."""
    if type(loader.batch_sampler) is not BatchSampler:
        return False
    sampler: Any = loader.batch_sampler.sampler
    later = type(sampler) is RandomSampler and (sampler.replacement or sampler.num_samples > len(sampler.data_source))
    return type(sampler) in SAMPLERS and not later


def only_loader(fetcher: Any) -> tuple[Any, Any]:
    """Returns the only loader of a fetcher and its iterator; (None, None) if there are several."""
    combined = fetcher.combined_loader
    iterators = getattr(combined._iterator, "iterators", [])
    if len(combined.flattened) != 1 or len(iterators) != 1 or combined.iterables is not combined.flattened[0]:
        return None, None
    return combined.flattened[0], iterators[0]


def draw_of(fetcher: Any) -> Any:
    """Returns the `draw_minibatches` of a fetcher's only iterator, or of its loader; None if there is none."""
    loader, iterator = only_loader(fetcher)
    return getattr(iterator, "draw_minibatches", None) or getattr(loader, "draw_minibatches", None)
