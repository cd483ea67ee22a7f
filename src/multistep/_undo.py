"""Restores what a trial may change outside the copies that it runs on."""

import collections
import copy
import functools
import inspect
import logging
import random
import types
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from multistep._describe import OF_TORCH, Describer, cached_in, enclosed, has_attributes, is_by_value, slots_of
from multistep._origins import PLAIN, contents_of, kind_of, settings_of

# How to read and set the contents of objects that are not containers.
CONTENTS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    np.ndarray: (np.copy, np.copyto),
    Tensor: (lambda value: value.detach().clone(), lambda value, content: value.detach().copy_(content)),
    memoryview: (memoryview.tobytes, lambda value, content: value.cast("B").__setitem__(slice(None), content)),
    random.Random: (random.Random.getstate, random.Random.setstate),
    torch.Generator: (torch.Generator.get_state, torch.Generator.set_state),
    np.random.RandomState: (np.random.RandomState.get_state, np.random.RandomState.set_state),
    np.random.Generator: (
        lambda value: value.bit_generator.state,
        lambda value, content: setattr(value.bit_generator, "state", content),
    ),
}


def set_dict(value: Any, content: Mapping[Any, Any]) -> None:
    """Makes a dictionary hold these items, in this order."""
    kind = kind_of(value)
    for key in [key for key in kind.keys(value) if key not in content]:
        kind.__delitem__(value, key)
    if [*kind.keys(value)] != [*content]:
        kind.clear(value)
    for key, item in content.items():
        kind.__setitem__(value, key, item)


def _set_sequence(value: Any, content: Any) -> None:
    kind = kind_of(value) or bytearray
    kind.clear(value)
    kind.extend(value, content)


def _set_set(value: set[Any], content: list[Any]) -> None:
    set.clear(value)
    set.update(value, content)


# Containers, and how to read and set what they hold, without running a user's code.
HOLDERS: list[tuple[Any, Callable[[Any], Any], Callable[[Any, Any], None]]] = [
    (dict, lambda value: dict(kind_of(value).items(value)), set_dict),
    ((list, collections.deque), contents_of, _set_sequence),
    (bytearray, bytes, _set_sequence),
    (set, contents_of, _set_set),
]


@dataclass(frozen=True, eq=False)
class Place:
    """Locates a value: a global name, a class attribute, the closure of a function, or an object."""

    label: str
    space: Any  # a dictionary or a class or, without a key, a function or the object itself
    key: str | None = None
    modules: Mapping[int, str] = field(default_factory=dict)  # paths of modules that are watched separately

    @property
    def encloses(self) -> bool:
        """True if this is the closure of a function."""
        return self.key is None and isinstance(self.space, types.FunctionType)

    def get(self) -> Any:
        """Returns the present value; for a closure, the list of its values."""
        if self.key is None:
            return enclosed(self.space) if self.encloses else self.space
        return (self.space if isinstance(self.space, dict) else vars(self.space)).get(self.key)

    def described(self) -> Any:
        """Returns the present value as plain values, or None if that is impossible."""
        try:
            return self._describe(self.get())
        except Exception:  # a user's class may raise anything
            return None

    def _describe(self, value: Any) -> Any:
        return Describer({}, self.modules)(value)

    def keeping(self) -> Callable[[], None]:
        """Returns a function that restores the present value under this name, and its contents."""
        value = self.get()
        inner = value if self.encloses else [value]
        before, back = self._describe(value), [_keeping(each) for each in inner]

        def put_back() -> None:
            if self.key is not None and self.get() is not value:
                put = dict.__setitem__ if isinstance(self.space, dict) else setattr
                put(self.space, self.key, value)
            if self.described() != before:
                for each in back:
                    if each is not None:
                        each()

        return put_back


def _keeping(value: Any, seen: set[int] | None = None) -> Callable[[], None] | None:
    """Returns a function that restores a value's contents in place, or None if they cannot change.

    Raises a TypeError if they cannot be restored.
    """
    seen = set() if seen is None else seen
    if isinstance(value, types.ModuleType):
        settings = settings_of(value)
        inner = [each for item in settings.values() if (each := _keeping(item, seen)) is not None]
        return partial(_call_all, [partial(vars(value).update, settings), *inner]) if settings else None
    if isinstance(value, (*PLAIN, *OF_TORCH, type, logging.Logger, np.ufunc)) or id(value) in seen:
        return None
    if isinstance(value, functools.cached_property):  # it holds a lock
        return _keeping(value.func, seen)
    if inspect.isdatadescriptor(value) and not has_attributes(value):  # descriptors of slots and named tuples
        return None
    seen.add(id(value))
    for kind, (get, set_) in CONTENTS.items():
        if isinstance(value, kind):
            return partial(set_, value, copy.deepcopy(get(value)))
    back, inside = _held(value)
    if not isinstance(value, nn.Module) and has_attributes(value):
        slots = slots_of(value)
        back += [partial(setattr, value, name, content) for name, content in slots.items()]
        inside += slots.values()
        if hasattr(value, "__dict__"):
            back.append(partial(set_dict, vars(value), dict(vars(value))))
            inside += vars(value).values()
    back += [each for item in inside if (each := _keeping(item, seen)) is not None]
    return partial(_call_all, back) if back else None


def _held(value: Any) -> tuple[list[Callable[[], None]], list[Any]]:
    """Returns functions that restore a container or function, and the values that it holds except attributes.

    Raises a TypeError if a value cannot be restored.
    """
    back: list[Callable[[], None]] = [
        partial(put, value, get(value)) for kind, get, put in HOLDERS if isinstance(value, kind)
    ]
    inside = contents_of(value)
    if back or isinstance(value, (tuple, frozenset)):
        return back, inside
    if isinstance(value, (types.MethodType, types.BuiltinFunctionType, types.MethodWrapperType)):
        inside.append(value.__self__)
    elif isinstance(value, weakref.ref):
        inside.append(value())
    elif isinstance(value, partial):
        inside += [*value.args, *value.keywords.values()]
    elif isinstance(value, types.FunctionType):
        back.append(partial(setattr, value, "__defaults__", value.__defaults__))
        inside += [value.__defaults__, value.__kwdefaults__, *enclosed(value)]
    elif isinstance(value, functools._lru_cache_wrapper):
        back += [value.cache_clear] if value.cache_info().currsize == 0 else []
        inside += cached_in(value)
    elif hasattr(type(value), "__next__") or not (has_attributes(value) or is_by_value(type(value))):
        raise TypeError(type(value).__name__)
    return back, inside


def _call_all(functions: list[Callable[[], None]]) -> None:
    for function in functions:
        function()
