"""Describes values as plain values, to be compared, and hashed to a key for the next process.

Contents are described, not identities, so that a change in place is seen.
"""

import collections
import enum
import functools
import gc
import hashlib
import logging
import random
import types
import weakref
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric

from multistep._errors import CannotFuseError
from multistep._guards import RefusingValue
from multistep._origins import PLAIN, attributes_of, contents_of, is_own, kind_of, name_of, settings_of

K = TypeVar("K")

FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial, staticmethod, classmethod, property)
# The attributes of a bare module; its parameters, buffers and submodules are described separately.
OF_EVERY_MODULE = set(nn.Module().__dict__) - {"training"}
OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, np.dtype)  # constants
OF_EVERY_MEMBER = {"_value_", "_name_", "__objclass__", "_sort_order_", "_missing_value_"}  # of an enumeration
DEEPEST, MOST = 100, 20_000  # maximum levels and values of a description


class Unhashable(str):
    """Stands for a value known only by its identity; what depends on it cannot outlive the process."""


def first_difference(one: Mapping[K, Any], other: Mapping[K, Any]) -> K | None:
    """Returns the first name whose values differ between two descriptions, or None if they agree."""
    return next((name for name in {**one, **other} if one.get(name) != other.get(name)), None)


def is_tensor(described: Any) -> bool:
    """Returns whether this describes a tensor."""
    return isinstance(described, list) and described[:1] == ["Tensor"]


def describe(value: Any) -> Any:
    """Returns a value as plain, comparable values."""
    return Describer({}, {})(value)


def is_known(described: Any) -> bool:
    """Returns whether a description holds nothing that is known only by its identity."""
    if isinstance(described, dict):
        return all(map(is_known, described.values()))
    if isinstance(described, (list, tuple)):
        return all(map(is_known, described))
    return not isinstance(described, Unhashable)


class Describer:
    """Describes values; a value that refers to itself is described once.

    Args:
        names: the names that describe the module's tensors, by identity.
        modules: the paths that describe its submodules, by identity.
    """

    def __init__(self, names: Mapping[int, str], modules: Mapping[int, str]) -> None:
        self._names, self._modules = names, modules
        self._inside: set[int] = set()
        self._count = 0

    def __call__(self, value: Any) -> Any:
        if type(value) is RefusingValue or isinstance(value, (Dataset, DataLoader)):
            return "data"  # a step is refused if it uses them
        if isinstance(value, PLAIN):
            return (type(value).__name__, repr(value)) if isinstance(value, float) else value
        self._count += 1
        if self._count > MOST:
            raise CannotFuseError("an update depends on too many values to watch")
        if isinstance(value, OF_TORCH):
            return [type(value).__name__, str(value)]
        if isinstance(value, (Tensor, np.ndarray)):
            return ["own", self._names[id(value)]] if id(value) in self._names else _digest(value)
        if isinstance(value, weakref.ref):
            return ["weakref", self(value())]
        if id(value) in self._inside:
            return [type(value).__name__, "..."]
        if len(self._inside) > DEEPEST:
            raise CannotFuseError("an update depends on values that are nested too deeply to watch")
        self._inside.add(id(value))
        try:
            return self._compound(value)
        finally:
            self._inside.discard(id(value))

    def _compound(self, value: Any) -> Any:
        kind = type(value).__name__
        contents: list[Any] | None = None
        if isinstance(value, (list, tuple, collections.deque)):
            contents = [*map(self, contents_of(value))]
        elif isinstance(value, (set, frozenset)):
            contents = sorted(map(repr, map(self, contents_of(value))))
        elif isinstance(value, (dict, types.MappingProxyType)):
            items = kind_of(value).items(value) if isinstance(value, dict) else value.items()
            contents = [(self(key), self(item)) for key, item in items]
        if isinstance(value, enum.Enum):
            own = {key: item for key, item in vars(value).items() if key not in OF_EVERY_MEMBER}
            return [name_of(type(value)), value.name, self(value.value), *([self(own)] if own else [])]
        if contents is not None:
            more = [self(vars(value))] if getattr(value, "__dict__", None) else []  # of an instance of a subclass
            return [kind, *contents, *more]
        if isinstance(value, type):
            return name_of(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, types.ModuleType):
            return [kind, value.__name__, *((key, self(item)) for key, item in settings_of(value).items())]
        if isinstance(value, logging.Logger):
            return [kind, value.name, value.getEffectiveLevel(), value.disabled, value.manager.disable]
        if (described := self._callable(value)) is not None:
            return described
        if isinstance(value, torch.Generator):
            return _digest(value.get_state())
        if isinstance(value, memoryview):
            return [kind, _sha256(value.tobytes())]
        if isinstance(value, random.Random):
            return [kind, *value.getstate()]
        changing = isinstance(value, (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler))
        if changing or type(value).__module__.partition(".")[0] in ("pytorch_lightning", "lightning_fabric"):
            raise CannotFuseError(f"training_step can access a {kind}")
        if has_attributes(value):
            return [name_of(type(value)), self(attributes_of(value)), self(slots_of(value))]
        return self._state_of(value) or Unhashable(f"{kind} {id(value)}")

    def _callable(self, value: Any) -> Any:
        """Returns a function of any kind, described by its code and what it holds; None for anything else."""
        kind = type(value).__name__
        if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType, np.ufunc)):
            owner = getattr(value, "__self__", None)
            return [kind, value.__name__, None if isinstance(owner, (types.ModuleType, type)) else self(owner)]
        if isinstance(value, functools.partial):
            return [kind, self(value.func), self(value.args), self(value.keywords)]
        if isinstance(value, types.MethodType):
            return [kind, self(value.__func__), self(value.__self__)]
        if isinstance(value, types.FunctionType):
            inside = [value.__defaults__, value.__kwdefaults__, value.__dict__, enclosed(value)]
            return [kind, name_of(value), _code(value.__code__), *map(self, inside)]
        if isinstance(value, property):
            return [kind, self(value.fget), self(value.fset)]
        if isinstance(value, functools.cached_property):
            return [kind, self(value.func)]
        if isinstance(value, functools._lru_cache_wrapper):
            return [kind, self(value.__wrapped__), value.cache_info().currsize, *map(self, cached_in(value))]
        return None

    def _module(self, value: nn.Module) -> Any:
        """Describes a submodule by its path, and others by their attributes; these must hold no tensors or metrics."""
        if id(value) in self._modules:
            return [type(value).__name__, "module", self._modules[id(value)]]
        tensors = [*value.parameters(), *value.buffers()]
        if tensors or isinstance(value, Metric) or any(isinstance(child, Metric) for child in value.modules()):
            raise CannotFuseError(f"training_step can access a {type(value).__name__} that is not a submodule")
        return [
            [name_of(type(child)), [self(v) for k, v in vars(child).items() if k not in OF_EVERY_MODULE]]
            for child in value.modules()
        ]

    def _state_of(self, value: Any) -> Any:
        """Returns what an object would be pickled as, or None if it cannot be pickled."""
        try:
            made = value.__reduce_ex__(2)
        except Exception:  # an object may raise anything
            return None
        if isinstance(made, str):
            return [type(value).__name__, made]
        items = [list(part) if part is not None else None for part in made[3:5]]
        return [name_of(type(value)), self(made[1]), self(made[2] if len(made) > 2 else None), self(items)]


def has_attributes(value: Any) -> bool:
    """Returns whether an object consists of attributes that can be set."""
    kind = type(value)
    if _is_of_other_code(kind) or (is_by_value(kind) and not is_own(kind)):
        return False
    return hasattr(value, "__dict__") or any("__slots__" in vars(each) for each in kind.__mro__[:-1])


def is_by_value(kind: Any) -> bool:
    """Returns whether objects of a class are compared by value, as immutable objects are."""
    by_value = kind.__hash__ not in (None, object.__hash__) and not issubclass(kind, memoryview)
    return by_value and not _is_of_other_code(kind)


def _is_of_other_code(kind: Any) -> bool:
    """Returns whether objects of a class stand for memory that other code writes to."""
    return any(each.__module__ == "_ctypes" for each in kind.__mro__)


def slots_of(value: Any) -> dict[str, Any]:
    """Returns the attributes that an object keeps in slots."""
    slots = [vars(each).get("__slots__", ()) for each in type(value).__mro__]
    names = [name for each in slots for name in ([each] if isinstance(each, str) else each)]
    return {
        name: getattr(value, name) for name in names if name not in ("__dict__", "__weakref__") and hasattr(value, name)
    }


def _digest(value: Any) -> list[Any]:
    if isinstance(value, Tensor):
        if not isinstance(value, nn.Parameter) and type(value) is not Tensor:
            return [type(value).__name__, Unhashable(str(id(value)))]
        if value.layout != torch.strided or value.is_quantized:
            return [type(value).__name__, Unhashable(f"{id(value)} {value._version}")]
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy() if value.numel() else b""
        return [
            "Tensor",
            str(value.dtype),
            list(value.shape),
            value.requires_grad,
            _sha256(data),
        ]
    if value.dtype.hasobject:
        return ["ndarray", Unhashable(f"{id(value)} {value!r}")]
    return [
        "ndarray",
        str(value.dtype),
        list(value.shape),
        _sha256(np.ascontiguousarray(value)),
    ]


def cached_in(function: Any) -> list[Any]:
    """Returns the results that a `functools.lru_cache` function keeps; for a limited cache, the arguments as well."""
    own = vars(function), function.__wrapped__
    held = [each for each in gc.get_referents(function) if not any(each is one for one in own)]
    tables = [each for each in held if type(each) is dict]
    table = next((each for each in tables if any(map(_is_link, each.values()))), None)
    if table is None:  # of an unlimited cache
        values = [value for each in tables for value in each.values()]
    else:
        values = [each for each in held if each is not table]
    return [each for each in values if not isinstance(each, type) and type(each) is not object]


def _is_link(value: Any) -> bool:
    return type(value).__name__ == "_lru_list_elem"


def _sha256(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()


def enclosed(function: types.FunctionType) -> list[Any]:
    """Returns the values in a function's closure."""
    cells = function.__closure__ or ()
    return [cell.cell_contents for cell in cells if not _is_empty(cell)]


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


@functools.lru_cache(maxsize=1_000)
def _code(code: types.CodeType) -> str:
    constants = [_code(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return hashlib.sha256(code.co_code + repr((constants, code.co_names)).encode()).hexdigest()
