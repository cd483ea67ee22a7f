"""What compiled code depends on, as plain values: compared while a run goes on, and hashed to a key for the next one.

A module's `training_step` reads attributes of its modules, attributes of their classes, global names, and what
functions enclose. A callback may change any of them; another process may have others. Values are described, not
identities, so that a change in place is seen.
"""

import array
import collections
import copy
import dis
import enum
import functools
import hashlib
import inspect
import os
import random
import sys
import types
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection

from multistep._errors import CannotFuseError

PLAIN = (bool, int, float, complex, str, bytes, type(None))
FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial, staticmethod, classmethod, property)
# What a bare module has of its own; parameters, buffers and submodules are described by themselves.
OF_EVERY_MODULE = set(nn.Module().__dict__) - {"training"}
OF_LIGHTNING = set(LightningModule().__dict__) - {"training", "_hparams"} | {"_hparams_initial", "_hparams_name"}
# Hooks that torch itself registers compute weights; any other is called at every update.
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
KNOWN_PACKAGES = {"torch", "pytorch_lightning", "lightning", "lightning_fabric", "torchmetrics", "numpy", "multistep"}
# Code with one of these may read an attribute whose name it does not have.
BY_ANY_NAME = {"getattr", "setattr", "vars", "__dict__", "locals", "globals", "eval", "exec"}
# What reads gradients: the attribute, and functions of torch and Lightning.
GRADIENTS = {"grad", "grad_norm", "clip_grad_norm_", "clip_grad_value_", "get_total_norm"}
MAKING = ("__init__", "__new__", "__init_subclass__", "__class_getitem__")  # no step makes modules
FEW = 1_000  # values in a container that are looked at for code
DEEPEST, MOST = 12, 20_000  # levels and values of a description


class Unhashable(str):
    """Stands for a value that is known by its identity alone: what depends on it cannot outlive the process."""


class Fingerprint:
    """Describes a module again and again; the names that its code refers to are looked up once."""

    def __init__(self, module: nn.Module, optimizer: Optimizer | None = None) -> None:
        # Metrics are updated beside the compiled code.
        objects: list[Any] = [child for child in module.modules() if not isinstance(child, (Metric, MetricCollection))]
        if optimizer is not None and _is_foreign(type(optimizer).__module__):
            objects.append(optimizer)
        self._reach = _Reach(objects, {"training_step", "forward", "step"})
        if self._reach.changes is not None:
            raise CannotFuseError(self._reach.changes)
        self._names = self._reach.names

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Puts what the code refers to outside of the module back to what it was, where it is changed within.

        Raises a CannotFuseError, before, where something that may change cannot be put back.
        """
        undo = [_Undo(name) for name in self._names]
        try:
            yield
        finally:
            for each in undo:
                each()

    def describe(self, module: nn.Module) -> dict[str, Any]:
        """Returns all that the compiled code of a module depends on beside tensors that it is given, by name.

        Raises a CannotFuseError where a hook is registered, or where there is too much to describe.
        """
        own = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        names = {id(tensor): name for name, tensor in own}
        describer = _Describer(names, {id(child) for child in module.modules()})
        described: dict[str, Any] = {}
        for path, child in module.named_modules():
            _refuse_hooks(child, path)
            described[f"class of {path or 'self'}"] = _name_of(type(child))
            if isinstance(child, (Metric, MetricCollection)):
                continue  # updated beside the compiled code
            skipped = OF_LIGHTNING if isinstance(child, LightningModule) else OF_EVERY_MODULE
            for key, value in child.__dict__.items():
                known = not _is_foreign(type(child).__module__) or key == "training"
                if key not in skipped and (known or self._reach.has(key)):
                    described[f"self.{path}.{key}" if path else f"self.{key}"] = describer(value)
        for name, parameter in module.named_parameters():
            if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
                raise CannotFuseError(f"a hook is registered on the parameter {name}")
            described[f"parameter {name}"] = [parameter.requires_grad, str(parameter.dtype), list(parameter.shape)]
        described |= {f"buffer {name}": [str(b.dtype), list(b.shape)] for name, b in module.named_buffers()}
        described |= {name.label: describer(_get(name.space, name.key)) for name in self._names}
        for label, value in described.items():
            if isinstance(value, Unhashable) or (
                isinstance(value, list) and any(isinstance(v, Unhashable) for v in value)
            ):
                raise CannotFuseError(f"what {label} holds cannot be watched")
        return described


def reads_gradients(instance: Any) -> bool:
    """Returns whether a hook of a callback or module names the gradients of parameters."""
    reach = _Reach([instance], {name for name in dir(type(instance)) if name.startswith("on_")})
    return reach.reads_gradients


def first_difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """Returns the name of something that two descriptions have otherwise, or None where they agree."""
    return next((name for name in one | other if one.get(name) != other.get(name)), None)


def describe(value: Any) -> Any:
    """Returns a value as plain values that can be compared."""
    return _Describer({}, set())(value)


def is_known(described: Any) -> bool:
    """True where a description holds nothing that is known by its identity alone."""
    if isinstance(described, dict):
        return all(map(is_known, described.values()))
    if isinstance(described, (list, tuple)):
        return all(map(is_known, described))
    return not isinstance(described, Unhashable)


def sources_of(module: nn.Module) -> str | None:
    """Returns a digest of the files that the classes of a module are written in, and of those that these import.

    Torch's and the standard library's are left out, and of other installed packages those that they import. None where
    there is no file, as in a notebook.
    """
    modules = {cls.__module__ for child in module.modules() for cls in type(child).__mro__}
    waiting, seen = {name for name in modules if _is_foreign(name)}, set()
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
        if "site-packages" not in Path(file).parts:
            waiting |= set(_imported(found)) - seen
    for file in sorted(files):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


class _Describer:
    """Describes values; what refers to itself is described once, and a tensor of the module by its name."""

    def __init__(self, names: dict[int, str], modules: set[int]) -> None:
        self._names, self._modules = names, modules
        self._inside: set[int] = set()
        self._count = 0

    def __call__(self, value: Any) -> Any:
        if isinstance(value, PLAIN):
            return (type(value).__name__, repr(value)) if isinstance(value, float) else value
        self._count += 1
        if self._count > MOST:
            raise CannotFuseError("its attributes hold too many values to watch")
        if isinstance(value, (enum.Enum, torch.dtype, torch.device, torch.Size, np.dtype)):
            return [type(value).__name__, str(value)]
        if isinstance(value, (Tensor, np.ndarray)):
            return ["own", self._names[id(value)]] if id(value) in self._names else _digest(value)
        if isinstance(value, weakref.ref):
            return ["weakref", self(value())]
        if id(value) in self._inside or len(self._inside) > DEEPEST:
            return [type(value).__name__, "..."]
        self._inside.add(id(value))
        try:
            return self._compound(value)
        finally:
            self._inside.discard(id(value))

    def _compound(self, value: Any) -> Any:
        kind = type(value).__name__
        if isinstance(value, (list, tuple)):
            return [kind, *map(self, value)]
        if isinstance(value, (set, frozenset)):
            return [kind, *sorted(map(repr, map(self, value)))]
        if isinstance(value, (dict, types.MappingProxyType)):
            return [kind, *((self(key), self(item)) for key, item in value.items())]
        if isinstance(value, type):
            return _name_of(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, types.ModuleType):
            return [kind, value.__name__]
        if isinstance(value, (types.BuiltinFunctionType, np.ufunc)):
            return [kind, getattr(value, "__name__", kind)]
        if isinstance(value, functools.partial):
            return [kind, self(value.func), self(value.args), self(value.keywords)]
        if isinstance(value, types.MethodType):
            return [kind, self(value.__func__), self(value.__self__)]
        if isinstance(value, types.FunctionType):
            return [
                kind,
                _name_of(value),
                _code(value.__code__),
                self(value.__defaults__),
                self(value.__dict__),
                self(enclosed(value)),
            ]
        if isinstance(value, torch.Generator):
            return _digest(value.get_state())
        if is_dataclass(value):
            return [_name_of(type(value)), *(self(getattr(value, field.name, None)) for field in fields(value))]
        if type(value).__module__.partition(".")[0] in {"pytorch_lightning", "lightning_fabric", "torch"} - {"torch"}:
            return Unhashable(f"{kind} {id(value)}")  # a trainer, or part of it
        if state := self._state_of(value):
            return state
        return Unhashable(f"{kind} {id(value)}")

    def _module(self, value: nn.Module) -> Any:
        """One of the model's own is described by itself; another one must hold nothing that a step may change."""
        if id(value) in self._modules:
            return [type(value).__name__, "module"]
        tensors = [*value.parameters(), *value.buffers()]
        if tensors or isinstance(value, Metric) or any(isinstance(child, Metric) for child in value.modules()):
            raise CannotFuseError(f"training_step can reach a {type(value).__name__} that is no submodule")
        return [
            [_name_of(type(child)), [self(v) for k, v in vars(child).items() if k not in OF_EVERY_MODULE]]
            for child in value.modules()
        ]

    def _state_of(self, value: Any) -> Any:
        """What an object would be pickled as."""
        try:
            made = value.__reduce_ex__(2)
        except Exception:  # of any kind: it cannot be pickled
            attributes = getattr(value, "__dict__", None)
            return None if attributes is None else [Unhashable(f"{type(value).__name__} {id(value)}"), self(attributes)]
        if isinstance(made, str):
            return [type(value).__name__, made]
        items = [list(part) if part is not None else None for part in made[3:5]]
        return [_name_of(type(value)), self(made[1]), self(made[2] if len(made) > 2 else None), self(items)]


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


def _sha256(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuse_hooks(module: nn.Module, name: str) -> None:
    for hooks in HOOKS:
        if getattr(torch.nn.modules.module, f"_global{hooks}", None):
            raise CannotFuseError("a hook is registered on all modules")
        for hook in module.__dict__[hooks].values():
            if not str(getattr(hook, "__module__", type(hook).__module__)).startswith("torch."):
                raise CannotFuseError(f"a hook is registered on {name or 'the module'}")


def enclosed(function: types.FunctionType) -> list[Any]:
    """Returns what a function encloses."""
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


@dataclass(frozen=True)
class _Name:
    """A name outside of the module that its code refers to: an attribute of a class or module, or a global name."""

    label: str
    space: Any  # a class, a dictionary, or a function for what it encloses
    key: str


def _get(space: Any, key: str) -> Any:
    if isinstance(space, types.FunctionType):
        return [*enclosed(space), *(space.__defaults__ or ()), *(space.__kwdefaults__ or {}).values()]
    return space.get(key) if isinstance(space, dict) else getattr(space, key, None)


class _Undo:
    """Puts a name, and what its value holds, back to what they are now."""

    def __init__(self, name: _Name) -> None:
        self._name = name
        self._value = _get(name.space, name.key)
        self._inner = self._value if isinstance(name.space, types.FunctionType) else [self._value]
        self._before = [describe(value) for value in self._inner]
        try:
            self._copies = [_content(value) for value in self._inner]
        except Exception as error:
            raise CannotFuseError(f"what {name.label} holds cannot be put back after a trial") from error

    def __call__(self) -> None:
        space, key = self._name.space, self._name.key
        if not isinstance(space, types.FunctionType) and _get(space, key) is not self._value:
            space.__setitem__(key, self._value) if isinstance(space, dict) else setattr(space, key, self._value)
        for value, before, content in zip(self._inner, self._before, self._copies, strict=True):
            if content is not None and describe(value) != before:
                _put_back(value, content)


def _content(value: Any) -> Any:
    """A copy of what a value holds; None where it holds nothing that can change."""
    if isinstance(value, (list, dict, set, collections.deque)):
        return copy.deepcopy(value)
    if isinstance(value, (np.ndarray, Tensor)):
        return copy.deepcopy(value)
    if isinstance(value, (random.Random, torch.Generator, np.random.RandomState)):
        return value.getstate() if isinstance(value, random.Random) else value.get_state()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, types.FunctionType):
        return copy.deepcopy((value.__dict__, value.__defaults__))
    if hasattr(type(value), "__next__") or isinstance(value, (bytearray, memoryview, array.array)):
        raise TypeError(type(value).__name__)
    if type(value).__module__ in ("itertools", "contextvars", "_io"):
        raise TypeError(type(value).__name__)
    if isinstance(value, types.MethodType):
        return _content(value.__self__)
    if isinstance(value, weakref.ref):
        return _content(value())
    if isinstance(value, tuple):
        return [_content(item) for item in value]
    if _is_own(type(value)) and not hasattr(value, "__dict__") and not isinstance(value, (type, enum.Enum)):
        raise TypeError(type(value).__name__)
    if isinstance(value, types.SimpleNamespace) or (not isinstance(value, type) and _is_own(type(value))):
        return copy.deepcopy(vars(value)) if hasattr(value, "__dict__") else None
    return None


def _put_back(value: Any, content: Any) -> None:
    if isinstance(value, (types.MethodType, weakref.ref)):
        value = value.__self__ if isinstance(value, types.MethodType) else value()
    if isinstance(value, tuple):
        for item, inner in zip(value, content, strict=True):
            if inner is not None:
                _put_back(item, inner)
        return
    if isinstance(value, (list, set, dict, collections.deque)):
        value.clear()
        value.extend(content) if isinstance(value, (list, collections.deque)) else value.update(content)
    elif isinstance(value, np.ndarray):
        np.copyto(value, content)
    elif isinstance(value, Tensor):
        value.detach().copy_(content)
    elif isinstance(value, random.Random):
        value.setstate(content)
    elif isinstance(value, (torch.Generator, np.random.RandomState)):
        value.set_state(content)
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = content
    elif isinstance(value, types.FunctionType):
        value.__dict__.clear()
        value.__dict__.update(content[0])
        value.__defaults__ = content[1]
    else:
        vars(value).clear()
        vars(value).update(content)


class _Reach:
    """What methods of objects can read: found by the names in their code, and in the code that those lead to.

    A list that `validation_step` fills, say, is not in the reach of `training_step`, and may change.
    """

    def __init__(self, objects: Sequence[Any], methods: set[str]) -> None:
        self.names: list[_Name] = []
        self._reached = set(methods)
        self._by_any_name = False
        self.changes: str | None = None  # what cannot be put back, in words
        self.reads_gradients = False
        self._spaces: set[Any] = set()
        self._seen: set[int] = set()
        self._wholly: dict[type, None] = {}  # classes of other objects, of which every method counts
        mro = {cls: None for each in objects for cls in type(each).__mro__ if _is_foreign(cls.__module__)}
        followed: dict[tuple[type, str], None] = {}
        size = (-1, -1)
        while size != (size := (len(self._reached), len(self._seen))):
            for cls in mro:
                for key, value in vars(cls).items():
                    if isinstance(value, FUNCTIONS) and key not in MAKING and (self.has(key) or _is_dunder(key)):
                        self._follow(value)
                        if self.has(key) and isinstance(value, types.FunctionType):
                            followed[cls, key] = None
            for each in objects:
                for key, value in each.__dict__.items():
                    if self.has(key) and not (isinstance(each, Optimizer) and key == "step"):  # a schedule's wrapper
                        self._follow_value(value)
            for cls in list(self._wholly):
                for key, value in list(vars(cls).items()):
                    if key not in MAKING or not issubclass(cls, nn.Module):
                        self._follow_value(value)
        self.names += [_Name(f"{_name_of(cls)}.{key}", cls, key) for cls, key in followed]
        for cls in (*mro, *self._wholly):
            for key, value in vars(cls).items():
                data = (
                    not isinstance(value, (*FUNCTIONS, type)) and not _is_dunder(key) and not inspect.isroutine(value)
                )
                if data and (cls in self._wholly or self.has(key)):
                    self.names.append(_Name(f"{_name_of(cls)}.{key}", cls, key))
        if not self._reached.isdisjoint({"environ", "getenv"}):
            self.names.append(_Name("os.environ", vars(os.environ), "_data"))

    def has(self, key: str) -> bool:
        """Returns whether code in reach may read an attribute of this name."""
        return self._by_any_name or key in self._reached or (key == "_hparams" and self.has("hparams"))

    def _follow_value(self, value: Any, depth: int = 3) -> None:
        if isinstance(value, FUNCTIONS):
            self._follow(value)
            if isinstance(value, types.MethodType) and not isinstance(value.__self__, nn.Module):
                self._follow_value(value.__self__)
        elif isinstance(value, (list, tuple, set, frozenset, dict)):
            if depth and len(value) < FEW:
                for item in value.values() if isinstance(value, dict) else value:
                    self._follow_value(item, depth - 1)
        elif isinstance(value, type):
            if _is_own(value):
                self._wholly[value] = None
        elif _is_own(type(value)) and not isinstance(value, nn.Module):
            self._wholly[type(value)] = None

    def _follow(self, value: Any) -> None:
        for function in _functions_in(value):
            if id(function) not in self._seen:
                self._seen.add(id(function))
                self._read(function)

    def _read(self, function: types.FunctionType) -> None:
        """Takes up the names in a function's code, and what they stand for outside of the module."""
        names = set(_names_in(function.__code__))
        self._reached |= names
        self._by_any_name = self._by_any_name or not names.isdisjoint(BY_ANY_NAME)
        self.reads_gradients = self.reads_gradients or (
            not GRADIENTS.isdisjoint(names) and _reads_gradients(function.__code__)
        )
        space = function.__globals__
        for value in enclosed(function):
            self._follow_value(value)
        if function.__closure__ or function.__defaults__ or function.__kwdefaults__:
            self.names.append(_Name(f"{function.__qualname__} encloses", function, ""))
        for instruction in dis.get_instructions(function.__code__):
            if instruction.opname == "STORE_DEREF" and instruction.argval in function.__code__.co_freevars:
                self.changes = f"{function.__qualname__} changes {instruction.argval}, which encloses it"
            if instruction.opname == "IMPORT_NAME" and instruction.argval in sys.modules:
                self._read_names(names, vars(sys.modules[instruction.argval]), instruction.argval)
        self._read_names(names, space, function.__module__)

    def _read_names(self, names: set[str], space: dict[str, Any], module: str) -> None:
        """Takes up what names stand for in a module, and in the modules that stand there."""
        if (id(space), frozenset(names)) in self._spaces:
            return
        self._spaces.add((id(space), frozenset(names)))
        for name in sorted(names & space.keys()):
            value = space[name]
            if not isinstance(value, types.ModuleType):
                self._follow_own(value)
                self.names.append(_Name(f"{module}.{name}", space, name))
            elif _is_own_module(value.__name__):
                self._read_names(names, vars(value), value.__name__)

    def _follow_own(self, value: Any) -> None:
        if not isinstance(value, FUNCTIONS) or _is_own(value):
            self._follow_value(value)


def _reads_gradients(code: types.CodeType) -> bool:
    """Whether a function's code has the name `grad`, but for `torch.autograd.grad`, or of what reads it."""
    inner = any(_reads_gradients(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    names = [instruction.argval for instruction in dis.get_instructions(code)]
    return inner or any(name in GRADIENTS and before != "autograd" for before, name in pairwise([None, *names]))


def _is_dunder(key: str) -> bool:
    return key.startswith("__") and key.endswith("__")


def _functions_in(value: Any) -> Iterator[types.FunctionType]:
    if isinstance(value, types.FunctionType):
        yield value
        if isinstance(wrapped := getattr(value, "__wrapped__", None), types.FunctionType):
            yield wrapped
    elif isinstance(value, (staticmethod, classmethod, types.MethodType)):
        yield from _functions_in(value.__func__)
    elif isinstance(value, functools.partial):
        yield from _functions_in(value.func)
    elif isinstance(value, property):
        yield from _functions_in(value.fget)


def _names_in(code: types.CodeType) -> Iterator[str]:
    """The names in a function's code, and its strings, as they may be given to `getattr`."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _imported(module: types.ModuleType) -> Iterator[str]:
    """The modules of which another one has something among its names."""
    for value in list(vars(module).values()):
        name = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
        if isinstance(name, str) and name in sys.modules and _is_foreign(name):
            yield name


@functools.cache
def _is_foreign(name: str) -> bool:
    top = name.partition(".")[0]
    return (top not in KNOWN_PACKAGES and top not in sys.stdlib_module_names) or name == "__main__"


def _is_own_module(name: str) -> bool:
    """True for a module that is no installed package's."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return _is_foreign(name) and (file is None or "site-packages" not in Path(file).parts)


def _is_own(value: Any) -> bool:
    return _is_own_module(str(getattr(value, "__module__", "")))


def is_own_object(value: Any) -> bool:
    """Returns whether a value is an instance of a class that is no installed package's, and can change."""
    return _is_own(type(value)) and not isinstance(value, (type, enum.Enum, nn.Module))


def _name_of(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
