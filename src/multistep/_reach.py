"""Finds what hooks, data and metrics can reach, because they do not run under watch."""

import functools
import gc
import types
import weakref
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import numpy as np
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from multistep._describe import OF_TORCH, cached_in, enclosed, slots_of
from multistep._guards import RefusingValue
from multistep._origins import (
    FEW,
    PLAIN,
    attributes_of,
    can_change,
    contents_of,
    is_foreign,
    is_own,
    is_own_module,
    names_in,
)
from multistep._tree import address_of
from multistep._undo import Place

DEPTH = 9  # levels to which values are followed
OWNERS = (type, ModuleType)  # objects that own names
HOLDING = (MethodType, BuiltinFunctionType, partial, tuple, frozenset, weakref.ref)  # others' values alone
UNCHANGING = (*OF_TORCH, *HOLDING, Trainer, Dataset, DataLoader)
MAKING = ("__init__", "__new__", "__init_subclass__", "setup", "prepare_data")  # run before training


def reaches_the_training(values: Iterable[Any], kept: Iterable[Any], state: Iterable[Tensor]) -> bool:
    """Returns whether any value leads to something that training changes, through attributes, code or contents.

    Args:
        values: such as loaders.
        kept: the objects that training changes, such as the module and its submodules.
        state: the module's parameters and buffers.
    """
    memory, own = _memory_of(state), {*map(id, kept)}
    return any(id(value) in own or _is_trained(value, memory) for value in _within(values))


def shared_places(values: Iterable[Any], places: Iterable[Place]) -> list[Place]:
    """Returns the places whose contents values can change, judged by their attributes and the names in their code.

    Args:
        values: such as loaders.
        places: the places that an update reads.
    """
    seen = [*_within(values)]
    held = {id(value) for value in seen if isinstance(value, Tensor) or can_change(value)}
    spaces = {id(value if isinstance(value, type) else vars(value)) for value in seen if isinstance(value, OWNERS)}
    functions = [value for value in seen if isinstance(value, FunctionType)]
    spaces |= {id(function.__globals__) for function in functions}
    names = {name for function in functions for name in names_in(function.__code__)}
    return [
        place
        for place in places
        if (place.key in names and id(place.space) in spaces)
        or any(id(value) in held for value in _within([place.get()]))
    ]


def sharing(places: Iterable[Place], module: nn.Module, state: Iterable[Tensor]) -> str | None:
    """Returns the label of a place with an array or tensor in the memory of a module's state, or None.

    Compiled code uses the values that it finds there when it is compiled.

    Args:
        places: the places that an update reads.
        module: its submodules are skipped, because their tensors belong there.
        state: the tensors that an update changes.
    """
    memory, own = _memory_of(state), {*map(id, module.modules())}
    return next((place.label for place in places if any(_is_in(memory, v) for v in held_in([place.get()], own))), None)


def first_leaf(places: Iterable[Place], module: nn.Module) -> str | None:
    """Returns the label of a place with a tensor in whose `.grad` an update accumulates, or None.

    Args:
        places: the places that an update reads.
        module: the module, whose parameters do not count.
    """
    own = {*map(id, module.modules()), *map(id, module.parameters())}
    return next((place.label for place in places if any(map(_is_leaf, held_in([place.get()], own)))), None)


def _is_leaf(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_leaf and value.requires_grad


def in_common(copies: Iterable[Any], originals: Iterable[Any]) -> list[Any]:
    """Returns the objects that copies and originals share and that may change, such as the contents of closures."""
    held = {id(value) for value in held_in(originals)}
    return [value for value in changeable_in(copies) if id(value) in held]


def changeable_in(values: Iterable[Any], skipped: Container[int] = ()) -> list[Any]:
    """Returns the objects held in values that may change, except those with the skipped identities."""
    found = (value for value in held_in(values, skipped) if not isinstance(value, UNCHANGING))
    return [v for v in found if not isinstance(v, FunctionType) or is_own_module(str(v.__globals__.get("__name__")))]


def held_in(values: Iterable[Any], skipped: Container[int] = ()) -> Iterator[Any]:
    """Yields values and everything held in them, except skipped identities and what datasets and code hold."""
    seen: set[int] = set()
    waiting = deque(values)
    while waiting:
        value = waiting.popleft()
        if type(value) in PLAIN or type(value) is RefusingValue or id(value) in seen or id(value) in skipped:
            continue  # plain values first: a list may hold many, such as words
        if isinstance(value, (*PLAIN, *OWNERS)):
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, (Dataset, DataLoader)):
            continue
        waiting += contents_of(value)
        if isinstance(value, FunctionType):
            waiting += [*enclosed(value), value.__defaults__, value.__kwdefaults__]
        elif isinstance(value, (MethodType, BuiltinFunctionType)):
            waiting.append(value.__self__)
        elif isinstance(value, partial):
            waiting += [value.func, value.args, value.keywords]
        elif isinstance(value, weakref.ref):
            waiting.append(value())
        elif isinstance(value, functools._lru_cache_wrapper):
            waiting += cached_in(value)
        if not isinstance(value, Tensor):
            waiting += [*(attributes_of(value) or {}).values(), *slots_of(value).values()]


def has_data(values: Iterable[Any]) -> bool:
    """Returns whether any value is or holds a dataset or a loader."""
    return any(isinstance(value, (Dataset, DataLoader)) for value in held_in(values))


def _memory_of(state: Iterable[Tensor]) -> list[range]:
    storages = [tensor.untyped_storage() for tensor in state if address_of(tensor)]
    return [range(storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages]


def _is_in(memory: Sequence[range], value: Any) -> bool:
    """Returns whether a tensor or an array begins in one of these memory ranges."""
    address = 0
    if isinstance(value, Tensor):
        address = address_of(value)
    elif isinstance(value, (np.ndarray, memoryview)):
        address = np.asarray(value).__array_interface__["data"][0]
    return any(address in each for each in memory)


def _is_trained(value: Any, memory: Sequence[range]) -> bool:
    if isinstance(value, (Trainer, LightningModule, nn.Parameter, Optimizer, LRScheduler)):
        return True
    if isinstance(value, nn.Module):
        return next(value.parameters(), None) is not None
    if isinstance(value, FunctionType):
        return "trainer" in value.__code__.co_names
    return _is_in(memory, value)


def _within(values: Iterable[Any]) -> Iterator[Any]:
    """Yields values and what they hold in attributes and in code, down to `DEPTH` levels."""
    seen: set[int] = set()
    level = list(values)
    for _ in range(DEPTH):
        inner: list[Any] = []
        for value in level:
            if id(value) not in seen and not isinstance(value, PLAIN):
                seen.add(id(value))
                yield value
                inner += _held_by(value)
        level = inner


def _held_by(value: Any) -> Iterable[Any]:
    if isinstance(value, FunctionType):
        names = {*names_in(value.__code__)}
        found = [value.__globals__[name] for name in names if name in value.__globals__]
        return [*enclosed(value), *found, *(x for owner in found for x in named_in(owner, names))]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, weakref.ref):
        return [value()]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if type(value) in (list, tuple, set, dict, deque):
        return contents_of(value) if len(value) < FEW else []
    if isinstance(value, OWNERS):
        return []
    if isinstance(value, GeneratorType):
        return [*value.gi_frame.f_locals.values()] if value.gi_frame is not None else []
    if isinstance(value, ContextVar):
        return [value.get(None)]
    if hasattr(type(value), "__next__") and not is_own(type(value)):  # such as a `map`
        return gc.get_referents(value)
    # A data module has a trainer; its code shows whether it reads it.
    attributes = {} if isinstance(value, LightningDataModule) else attributes_of(value) or {}
    slots = {} if isinstance(value, LightningDataModule) else slots_of(value)
    return [*attributes.values(), *slots.values(), *_of_class(type(value)), *contents_of(value)[:FEW]]


def named_in(owner: Any, names: Iterable[str]) -> list[Any]:
    """Returns what a user's class or module has under these names, such as `Settings.network`."""
    own = is_own(owner) if isinstance(owner, type) else isinstance(owner, ModuleType) and is_own_module(owner.__name__)
    return [vars(owner)[name] for name in names if name in vars(owner)] if own else []


def _of_class(kind: type) -> Iterator[Any]:
    """Yields the methods, properties and values of a class, except those from torch, Lightning and Python."""
    left = {*MAKING, *(vars(LightningDataModule) if issubclass(kind, LightningDataModule) else ())}
    for cls in kind.__mro__:
        if is_foreign(cls.__module__):
            for name in vars(cls).keys() - left:
                yield from [*functions_in(vars(cls)[name])] or [vars(cls)[name]]


def functions_in(value: Any) -> Iterator[types.FunctionType]:
    """Yields the functions that a value is or wraps."""
    if isinstance(value, types.FunctionType):
        yield value
    elif isinstance(value, (staticmethod, classmethod, types.MethodType)):
        yield from functions_in(value.__func__)
    elif isinstance(value, (functools.partial, property)):
        yield from functions_in(value.func if isinstance(value, functools.partial) else value.fget)
