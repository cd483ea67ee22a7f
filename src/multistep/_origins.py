"""Determines whose code a function, class or module is, and which files it comes from."""

import collections
import enum
import functools
import hashlib
import inspect
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from multistep._guards import RefusingValue

PLAIN = (bool, int, float, complex, str, bytes, type(None))
KNOWN_PACKAGES = {"torch", "pytorch_lightning", "lightning", "lightning_fabric", "torchmetrics", "numpy", "multistep"}
OF_PYTHON = Path(types.__file__).parent  # the folder of the standard library
CONTAINERS: tuple[Any, ...] = (collections.OrderedDict, dict, list, tuple, set, frozenset, collections.deque)
OF_PYTHON_ITSELF = {key for owner in (type, object, types) for key in dir(owner) if key.startswith("__")}
OF_PYTHON_ITSELF |= {f"__{key}__" for key in ("slotnames", "slots", "warningregistry", "path", "all", "orig_bases")}
OF_PYTHON_ITSELF |= {f"__{key}__" for key in ("parameters", "static_attributes", "firstlineno", "annotate", "set_name")}
FEW = 1_000  # a container of at least this many values is not searched


def sources_of(module: nn.Module) -> str | None:
    """Returns a digest of the files of a module's classes and of the files that these import.

    It leaves out torch and the standard library, and what other installed packages import. Returns None if there is no
    file, as in a notebook.
    """
    modules = {cls.__module__ for child in module.modules() for cls in type(child).__mro__}
    waiting, seen = {name for name in modules if is_foreign(name)}, set()
    digest = hashlib.sha256()
    files = []
    while waiting:
        name = waiting.pop()
        seen.add(name)
        found = sys.modules.get(name)
        file = getattr(found, "__file__", None)
        if found is None or file is None or not Path(file).is_file():
            return None
        files.append(file)
        if not _is_installed(file):
            waiting |= set(_imported(found)) - seen
    for file in sorted(files):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def settings_of(module: types.ModuleType) -> dict[str, Any]:
    """Returns a module's numbers and strings, and containers of them, by name; nothing for an installed package."""
    if not is_own_module(module.__name__):
        return {}
    return {key: value for key, value in vars(module).items() if not is_of_python(key) and _is_plain(value)}


def _is_plain(value: Any, depth: int = 4) -> bool:
    if isinstance(value, (list, tuple, set, dict)) and depth and len(inside := contents_of(value)) < FEW:
        return all(_is_plain(each, depth - 1) for each in inside)
    return isinstance(value, PLAIN)


def is_of_python(key: str) -> bool:
    """Returns whether Python itself uses this name in a class or module; others may look alike, such as `__calls__`."""
    return key in OF_PYTHON_ITSELF or (key.startswith("__dataclass_") and key.endswith("__"))


def names_in(code: types.CodeType) -> Iterator[str]:
    """Yields the names in a function's code, and its strings, which may be passed to `getattr`."""
    yield from code.co_names
    waiting = [*code.co_consts]
    for constant in waiting:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, (tuple, frozenset)):
            waiting += constant
        elif isinstance(constant, types.CodeType):
            yield from names_in(constant)


def _imported(module: types.ModuleType) -> Iterator[str]:
    """Yields the names of the modules that a module imports or imports something from."""
    for value in list(vars(module).values()):
        name = value.__name__ if inspect.ismodule(value) else module_of(value)
        if name in sys.modules and is_foreign(name):
            yield name


@functools.cache
def is_foreign(name: str) -> bool:
    """Returns whether a module of this name is neither in `KNOWN_PACKAGES` nor in the standard library."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names and name != "__main__":
        file = getattr(sys.modules.get(top), "__file__", None)  # a user's file may have the same name
        return file is not None and not Path(file).is_relative_to(OF_PYTHON)
    return not (top in KNOWN_PACKAGES or top.startswith("namedtuple_")) or name == "__main__"


def is_own_module(name: str) -> bool:
    """Returns whether a module of this name is the user's: not an installed package's, unless `count_as_own` names it.

    The package of the module that is trained may be installed, too.
    """
    file = getattr(sys.modules.get(name), "__file__", None)
    return is_foreign(name) and (file is None or not _is_installed(file) or name.partition(".")[0] in _COUNTED)


@functools.cache
def _is_installed(file: str) -> bool:
    return "site-packages" in Path(file).parts


def count_as_own(cls: type) -> None:
    """Has `is_own_module` count the packages of a class and of its bases as the user's, even if they are installed."""
    _COUNTED.update(base.__module__.partition(".")[0] for base in cls.__mro__)


_COUNTED: set[str] = set()


def loaded(name: str, package: str) -> list[types.ModuleType]:
    """Returns the loaded modules that an import of this name may mean within a package: absolute or relative."""
    parents = package.split(".")
    names = [name, *(f"{'.'.join(parents[:count])}.{name}".strip(".") for count in range(len(parents), 0, -1))]
    return [sys.modules[each] for each in names if each in sys.modules]


def is_own(value: Any) -> bool:
    """Returns whether a class or function is the user's, not an installed package's."""
    return is_own_module(module_of(value))


def module_of(value: Any) -> str:
    """Returns the name of the module that a function or class, or the class of another object, was written in.

    A function's `__module__` may be that of another one, copied by `functools.wraps`.
    """
    if isinstance(value, types.FunctionType):
        return str(value.__globals__.get("__name__"))
    if isinstance(value, (types.MethodType, functools.partial)):
        return module_of(value.__func__ if isinstance(value, types.MethodType) else value.func)
    plain = isinstance(value, (type, types.BuiltinFunctionType))
    return str(value.__module__ if plain else type(value).__module__)


def is_own_object(value: Any) -> bool:
    """Returns whether a value is a mutable instance of a user's class, not a class, enum, module or tensor."""
    return is_own(type(value)) and not isinstance(value, (type, enum.Enum, nn.Module, Tensor))


def name_of(value: Any) -> str:
    """Returns the full name of a class or function."""
    return f"{value.__module__}.{value.__qualname__}"


def contents_of(value: Any) -> list[Any]:
    """Returns what a built-in container holds, or one derived from it, without running a user's code."""
    if isinstance(value, dict):
        return [*kind_of(value).values(value)]
    kind = kind_of(value)
    return [] if kind is None else [*kind.__iter__(value)]


def attributes_of(value: Any) -> dict[str, Any] | None:
    """Returns the dictionary of an object's attributes, without running a user's code; None if it has none."""
    if type(value) is threading.local:
        return value.__dict__
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return found if type(found) is dict else None


def kind_of(value: Any) -> Any:
    """Returns the built-in container that a value is or is derived from, or None."""
    return next((kind for kind in CONTAINERS if isinstance(value, kind)), None)


def can_change(value: Any) -> bool:
    """Returns whether a function may change a value's contents: a container, an array, or a user's object."""
    if type(value) is RefusingValue:
        return False
    return isinstance(value, (list, dict, set, collections.deque, np.ndarray)) or is_own_object(value)
