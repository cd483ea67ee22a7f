"""Keeps the state that the user's code can reach, to find and undo what a trial changes."""

import functools
import gc
import logging
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from multistep._describe import OF_TORCH, cached_in, describe, slots_of
from multistep._errors import CannotFuseError
from multistep._guards import RefusingValue
from multistep._origins import PLAIN, attributes_of, is_of_python, is_own, is_own_module
from multistep._undo import CONTENTS, HOLDERS

LARGEST = 2**24  # bytes of a tensor or array whose contents are kept
MOST = 1_000_000  # objects that are followed
# Values without state, and those that change while a trial runs.
OF_PYTHON = (types.CodeType, types.FrameType, types.GeneratorType, types.ModuleType, logging.Logger)
SKIPPED = (*PLAIN, *OF_TORCH, *OF_PYTHON, Trainer)
OF_OTHERS = ("multistep.", "pytorch_lightning.", "lightning_fabric.", "_abc")  # modules of classes without such state
OF_FUNCTIONS = ("__code__", "__defaults__", "__kwdefaults__", "__doc__")  # what code can replace
WITHOUT_ATTRIBUTES = {dict, list, tuple, set, frozenset, types.CellType}
LOCKS = (type(threading.Lock()), type(threading.RLock()), threading.Condition, threading.Event)


class _Kept(NamedTuple):
    label: str
    value: Any
    get: Callable[[Any], Any]  # returns the contents: a dictionary or list of objects, or plain values
    set: Callable[[Any, Any], None]
    content: Any


class UserState:
    """Keeps every container, attribute, closure and tensor that the user's code can reach, as it is now.

    References are followed from the user's loaded modules, without running any of their code. Installed packages,
    iterators and objects of C extensions are left out, as is everything while another thread runs the user's code.

    Args:
        roots: further objects to follow, by what messages call them.
        skipped: the identities of objects whose changes do not matter.
        data: whether to follow datasets and loaders that are no roots.
    """

    def __init__(self, roots: Mapping[str, Any], skipped: Collection[int] = (), data: bool = False) -> None:
        self._kept: list[_Kept] = []
        if _others_run():
            return
        left = () if data else (Dataset, DataLoader)
        waiting: deque[tuple[str, Any]] = deque()
        for name, module in list(sys.modules.items()):
            if is_own_module(name) and isinstance(module, types.ModuleType):
                names = _named_in(module)
                self._kept.append(_Kept(name, module, _named_in, _set_names, names))
                waiting += [(f"{name}.{key}", value) for key, value in names.items()]
        waiting += roots.items()
        seen = {*skipped, *(id(vars(module)) for module in list(sys.modules.values()) if hasattr(module, "__dict__"))}
        while waiting and len(seen) < MOST:
            label, value = waiting.popleft()
            if id(value) not in seen:
                seen.add(id(value))
                with suppress(Exception):  # an object may raise anything
                    if not (_is_left_out(value) or issubclass(type(value), left)):
                        waiting += [(label, inner) for inner in self._keep(label, value) if type(inner) not in PLAIN]

    def put_back(self) -> str | None:
        """Restores everything that has changed; returns the name by which the first such object was reached."""
        changed = None
        for label, value, get, set_, content in self._kept:
            if not _is_same_content(now := get(value), content):
                if changed is None:
                    keys = content.keys() | now.keys() if get is _named_in else ()
                    key = next((key for key in sorted(keys) if now.get(key) is not content.get(key)), None)
                    changed = label if key is None else f"{label}.{key}"
                set_(value, content)
        return changed

    @contextmanager
    def kept(self, who: str = "training_step") -> Iterator[None]:
        """Restores everything after the block; raises a CannotFuseError if it has changed.

        Args:
            who: what runs in the block, for the message.
        """
        changed = None
        try:
            yield
        finally:
            changed = self.put_back()
        if changed is not None:
            raise CannotFuseError(f"{who} changes {changed}")

    def _keep(self, label: str, value: Any) -> list[Any]:
        """Keeps the contents of an object, and returns the objects that it holds."""
        kind: Any = type(value)
        if issubclass(kind, functools._lru_cache_wrapper):  # changing its table would break it
            return [value.__wrapped__, *cached_in(value)]
        of_class = issubclass(kind, type)  # copying an object stores `__slotnames__` in its class
        inner = [] if issubclass(kind, Tensor) else [*vars(value).values()] if of_class else gc.get_referents(value)
        if issubclass(kind, weakref.ref):
            inner.append(value())
        self._kept += [_Kept(label, value, get, set_, get(value)) for get, set_ in _keepers_of(kind)]
        if of_class:
            return [*inner, *value.__bases__, *kind.__subclasses__(value)]
        if kind not in WITHOUT_ATTRIBUTES:
            inner += [each for each in [attributes_of(value)] if each is not None]
            if _has_slots(kind) and (slots := slots_of(value)):
                self._kept.append(_Kept(label, value, slots_of, _set_slots, slots))
        return inner


@functools.cache
def _keepers_of(kind: type) -> list[tuple[Callable[[Any], Any], Callable[[Any, Any], None]]]:
    return [(get, put) for one, get, put in KINDS if issubclass(kind, one)]


@functools.cache
def _has_slots(kind: type) -> bool:
    return any("__slots__" in vars(each) for each in kind.__mro__)


@functools.cache
def _is_skipped(kind: type) -> bool:
    return kind is RefusingValue or issubclass(kind, SKIPPED) or str(kind.__module__).startswith(OF_OTHERS)


def _is_left_out(value: Any) -> bool:
    kind: Any = type(value)
    if kind in WITHOUT_ATTRIBUTES or _is_skipped(kind):
        return kind not in WITHOUT_ATTRIBUTES
    if issubclass(kind, types.FunctionType):
        return not is_own_module(str(value.__globals__.get("__name__")))
    if issubclass(kind, type):
        return not is_own(value)
    # What installed packages share between threads, such as a logger's queue, changes by itself.
    return not is_own(kind) and any(isinstance(each, LOCKS) for each in (attributes_of(value) or {}).values())


def _others_run() -> bool:
    """Returns whether another thread is running the user's code, which may change its state at any time."""
    for thread, frame in sys._current_frames().items():
        while frame is not None and thread != threading.get_ident():
            if is_own_module(str(frame.f_globals.get("__name__"))):
                return True
            frame = frame.f_back  # type: ignore[assignment]
    return False


def _is_same_content(now: Any, before: Any) -> bool:
    if type(before) is dict:
        return len(now) == len(before) and _are_same(now, before) and _are_same(now.values(), before.values())
    if type(before) is list:
        return len(now) == len(before) and _are_same(now, before)
    return bool(now == before)


def _are_same(some: Iterable[Any], others: Iterable[Any]) -> bool:
    return all(
        a is b or (type(a) is type(b) and type(a) in PLAIN and a == b) for a, b in zip(some, others, strict=True)
    )


def _of_function(function: Any) -> dict[str, Any]:
    return {name: getattr(function, name) for name in OF_FUNCTIONS}


def _set_function(function: Any, content: dict[str, Any]) -> None:
    for name, value in content.items():
        setattr(function, name, value)


def _set_slots(value: Any, content: dict[str, Any]) -> None:
    for name in slots_of(value).keys() - content:
        object.__delattr__(value, name)
    for name, item in content.items():
        object.__setattr__(value, name, item)


def _in_cell(cell: types.CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # it is empty
        return []


def _set_cell(cell: types.CellType, content: list[Any]) -> None:
    if content:
        cell.cell_contents = content[0]
    else:
        del cell.cell_contents


def _named_in(owner: Any) -> dict[str, Any]:
    """Returns the names of a class or module, except Python's own."""
    return {key: value for key, value in list(vars(owner).items()) if not is_of_python(key)}


def _set_names(owner: Any, content: dict[str, Any]) -> None:
    kind = type if isinstance(owner, type) else types.ModuleType
    for key in _named_in(owner).keys() - content:
        kind.__delattr__(owner, key)
    for key, value in content.items():
        if vars(owner).get(key) is not value:
            kind.__setattr__(owner, key, value)


def _of_tensor(tensor: Tensor) -> dict[str, Any]:
    gradient = tensor.grad if tensor.is_leaf else None
    found = {"version": tensor._version, "bytes": _bytes(tensor), "gradient": gradient}
    return found if gradient is None else found | {"its bytes": _bytes(gradient)}


def _set_tensor(tensor: Tensor, content: dict[str, Any]) -> None:
    for each, key in ((tensor, "bytes"), (content["gradient"], "its bytes")):
        if each is not None and content.get(key):
            kept = torch.frombuffer(bytearray(content[key]), dtype=each.dtype).view(each.shape)
            each.detach().copy_(kept)
    if tensor.is_leaf:
        tensor.grad = content["gradient"]


def _bytes(tensor: Tensor) -> bytes:
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided and not tensor.is_quantized
    if not plain or tensor.device.type != "cpu" or not 0 < tensor.numel() * tensor.itemsize <= LARGEST:
        return b""
    return bytes(tensor.detach().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8).numpy())


@dataclass(frozen=True)
class _State:
    """The state of a generator or the contents of an array, compared by their description."""

    raw: Any = field(compare=False)
    described: Any


def _reader(get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> _State:
        raw = None if getattr(value, "nbytes", 0) > LARGEST else get(value)
        return _State(raw, describe(raw))

    return read


def _writer(put: Callable[[Any, Any], Any]) -> Callable[[Any, Any], None]:
    return lambda value, content: put(value, content.raw)


# Kinds of objects, how to read their contents, and how to set them.
KINDS: list[tuple[Any, Callable[[Any], Any], Callable[[Any, Any], None]]] = [
    *((kind, _reader(get), _writer(put)) for kind, (get, put) in CONTENTS.items() if kind is not Tensor),
    *HOLDERS,
    (types.CellType, _in_cell, _set_cell),
    (types.FunctionType, _of_function, _set_function),
    (type, _named_in, _set_names),
    (Tensor, _of_tensor, _set_tensor),
]
