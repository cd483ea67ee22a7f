"""What an update depends on beside the tensors it is given: found by watching every function that it runs.

A module's `training_step` reads attributes of its modules and their classes, global names, and what functions enclose.
A callback may change any of them, and another process may have others. So one update is performed on copies, and
whatever code of one's own runs in it is noted before it begins, with all that it names. What it calls beside, such as
the clock, a file or the trainer, is refused: compiled code would do it once, or never.
"""

import collections
import copy
import dis
import enum
import functools
import gc
import inspect
import logging
import operator
import os
import random
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torchmetrics import Metric, MetricCollection

from multistep._describe import (
    FUNCTIONS,
    KNOWN_PACKAGES,
    OF_EVERY_MODULE,
    PLAIN,
    Describer,
    Unhashable,
    describe,
    enclosed,
    has_attributes,
    is_by_value,
    is_dunder,
    is_foreign,
    is_own,
    is_own_module,
    is_own_object,
    name_of,
    names_in,
    slots_of,
)
from multistep._errors import CannotFuseError
from multistep._guards import RefusingValue

OF_LIGHTNING = set(LightningModule().__dict__) - {"training", "_example_input_array"}
OF_LIGHTNING |= {"_hparams_initial", "_hparams_name"}
# Hooks that torch itself registers compute weights; any other is called at every update.
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# Code with one of these may read an attribute whose name it does not have.
BY_ANY_NAME = {"getattr", "setattr", "vars", "__dict__", "locals", "globals", "eval", "exec", "attrgetter"}
# Members of a LightningModule whose values change from update to update, or that act beside it.
OF_THE_MODULE = {"trainer", "fabric", "global_step", "current_epoch", "global_rank", "local_rank", "logger", "loggers"}
OF_THE_MODULE |= {"optimizers", "lr_schedulers", "manual_backward", "print"}
OF_THE_TRAINER = ("pytorch_lightning.trainer", "pytorch_lightning.loops", "pytorch_lightning.loggers")
# Modules of Python in C whose functions read, or change, something outside of the process's own memory.
OUTSIDE = {"time", "posix", "nt", "_io", "_socket", "socket", "_ssl", "_sqlite3", "sqlite3", "select", "mmap"}
OUTSIDE |= {"_posixsubprocess", "_winapi", "_contextvars", "_signal"}
NOT_OUTSIDE = {"fspath", "_path_normpath", "_path_splitroot", "_path_splitroot_ex"}
CLOCK = {"now", "today", "utcnow"}
PRINTING = {"print", "input", "open", "breakpoint"}
NOBODY = 2  # references to what a place alone holds, while they are counted
FROZEN = (*PLAIN, type, types.ModuleType, types.CodeType, torch.dtype, torch.device)  # do not change in place
MAKING = ("__init__", "__new__", "__init_subclass__", "__class_getitem__")  # no step makes its modules
FEW = 1_000  # values in a container that are looked at for classes


_Key = tuple[int, str | None]


class _Refused(BaseException):
    """Raised where a step does what is refused; no `except Exception` of its own catches it."""


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a value is found again: a global name, an attribute of a class, what a function encloses, or an object."""

    label: str
    space: Any  # a dictionary, a class, a function, or with no key the object itself
    key: str | None = None

    def get(self) -> Any:
        if self.key is None:
            return enclosed(self.space) if isinstance(self.space, types.FunctionType) else self.space
        return (self.space if isinstance(self.space, dict) else vars(self.space)).get(self.key)

    def keeping(self) -> Callable[[], None]:
        """Returns what puts the name, and what its value holds, back to what they are now."""
        value = self.get()
        inner = value if isinstance(self.space, types.FunctionType) and self.key is None else [value]
        before, back = describe(value), [_keeping(each) for each in inner]

        def put_back() -> None:
            if self.key is not None and self.get() is not value:
                put = dict.__setitem__ if isinstance(self.space, dict) else setattr
                put(self.space, self.key, value)
            if describe(value) != before:
                for each in back:
                    if each is not None:
                        each()

        return put_back


class Watch:
    """Watches what one update reads and does, and describes that again and again.

    Args:
        perform: performs the update, on copies.
        module: the copy of the module.
        copies: identities of all that was copied, of which no change matters.

    Raises:
        CannotFuseError: it does more than tensor operations.
    """

    def __init__(self, perform: Callable[[], None], module: nn.Module, copies: set[int]) -> None:
        self._copies = copies
        self._keys = {"training_step", "forward"}
        self._by_any_name = False
        self._codes: dict[types.CodeType, None] = {}
        self._classes: dict[type, None] = {}
        self._places: dict[_Key, _Place] = {}
        self._back: dict[_Key, Callable[[], None]] = {}
        self._held: dict[_Key, int] = {}  # references to an object that undoing holds
        self._problems: set[_Key] = set()
        self._enclosed: dict[types.CodeType, set[tuple[int, ...]]] = {}
        self._refusal: str | None = None
        self._seen: list[Any] = []
        self._changeable: list[Any] = []
        self._described: list[Any] = []
        self._names: tuple[dict[int, str], set[int]] = {}, set()
        for child in module.modules():
            if not isinstance(child, (Metric, MetricCollection)):
                self._meet_class(type(child))
                inside = [value for key, value in vars(child).items() if key not in OF_EVERY_MODULE]
                self._meet_classes_in(value for value in inside if type(value) is not RefusingValue)
        for path, child in module.named_modules():
            _refuse_hooks(child, path)
        modes: list[Any] = [*_get_current_dispatch_mode_stack()]
        modes += _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        if modes:
            raise CannotFuseError(f"{type(modes[-1]).__name__} sees every operation")
        self._run(perform)
        self._settle()

    def has(self, key: str) -> bool:
        """Returns whether code that ran may read an attribute of this name."""
        return key in self._keys or self._by_any_name or key.removeprefix("_") in self._keys

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Puts what the code refers to outside of the module back to what it was, where it is changed within."""
        back = [place.keeping() for place in self._places.values()]
        try:
            yield
        finally:
            for put_back in back:
                put_back()

    def describe(self, module: nn.Module) -> dict[str, Any]:
        """Returns all that the compiled code of a module depends on beside tensors that it is given, by name.

        Raises a CannotFuseError where a hook is registered, or where there is too much to describe.
        """
        describer = Describer(*_names_of(module))
        described: dict[str, Any] = {}
        for path, child in module.named_modules():
            _refuse_hooks(child, path)
            described[f"class of {path or 'self'}"] = name_of(type(child))
            described |= {label: describer(value) for label, value in self._attributes(path, child)}
        for name, parameter in module.named_parameters():
            if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
                raise CannotFuseError(f"a hook is registered on the parameter {name}")
            if key := next((key for key in vars(parameter) if self.has(key)), None):
                raise CannotFuseError(f"training_step may read {key} of the parameter {name}")
            described[f"parameter {name}"] = [parameter.requires_grad, str(parameter.dtype), list(parameter.shape)]
        described |= {f"buffer {name}": [str(b.dtype), list(b.shape)] for name, b in module.named_buffers()}
        described |= {place.label: describer(place.get()) for place in self._places.values()}
        for label, value in described.items():
            if isinstance(value, Unhashable) or (
                isinstance(value, list) and any(isinstance(v, Unhashable) for v in value)
            ):
                raise CannotFuseError(f"what {label} holds cannot be watched")
        return described

    def _attributes(self, path: str, child: nn.Module) -> Iterator[tuple[str, Any]]:
        """The attributes of a submodule that code in reach may read, by name."""
        if isinstance(child, (Metric, MetricCollection)):
            return  # updated beside the compiled code
        skipped = OF_LIGHTNING if isinstance(child, LightningModule) else OF_EVERY_MODULE
        known = not is_foreign(type(child).__module__)
        for key, value in vars(child).items():
            if key not in skipped and (known or key == "training" or self.has(key)):
                yield f"self.{path}.{key}" if path else f"self.{key}", value

    def has_changed(self, module: nn.Module, described: dict[str, Any]) -> bool:
        """Returns whether a module would be described in another way: in a tenth of the time, as long as it is not."""
        seen = self._glance(module)
        same = len(seen) == len(self._seen) and all(map(operator.is_, seen, self._seen))
        if same and self._contents() == self._described:
            return False
        if self.describe(module) != described:
            return True
        watched = [value for path, child in module.named_modules() for _, value in self._attributes(path, child)]
        watched += [place.get() for place in self._places.values()]
        self._changeable = [value for value in watched if not isinstance(value, (*FROZEN, nn.Module))]
        self._seen, self._names = seen, _names_of(module)
        self._described = self._contents()
        return False

    def _contents(self) -> list[Any]:
        describer = Describer(*self._names)
        return [describer(value) for value in self._changeable]

    def _glance(self, module: nn.Module) -> list[Any]:
        """All values that a description looks at, themselves."""
        seen: list[Any] = [place.get() for place in self._places.values()]
        children = [module]
        for child in children:
            own = vars(child)
            seen += own
            seen += own.values()
            seen += [len(own[hooks]) for hooks in HOOKS]
            for parameter in own["_parameters"].values():
                if parameter is not None:
                    hooks = parameter._backward_hooks, getattr(parameter, "_post_accumulate_grad_hooks", None)
                    seen += [parameter, parameter.requires_grad, *hooks]
            children += [inner for inner in own["_modules"].values() if inner is not None]
        seen += [len(getattr(torch.nn.modules.module, f"_global{hooks}")) for hooks in HOOKS]
        return seen

    # While the update is performed

    def _run(self, perform: Callable[[], None]) -> None:
        if sys.getprofile() is not None:
            raise CannotFuseError("a profiler watches the training")
        changed: str | None = None
        try:
            sys.setprofile(self._event)
            try:
                perform()
            finally:
                sys.setprofile(None)
        except _Refused:
            pass
        finally:
            self._drop_what_is_gone()
            after = {key: describe(place.get()) for key, place in self._places.items() if key in self._back}
            for put_back in self._back.values():
                put_back()
            changed = next((p.label for key, p in self._places.items() if after.get(key, p) != describe(p.get())), None)
        if self._refusal is not None or changed is not None:
            raise CannotFuseError(self._refusal or f"training_step changes {changed}")

    def _drop_what_is_gone(self) -> None:
        """Leaves out objects that the update has made itself, which nobody else holds, and then what those held."""
        count = 0
        while count != (count := len(self._places)):
            for key, place in list(self._places.items()):
                if place.key is None and sys.getrefcount(place.space) - self._held[key] <= NOBODY:
                    del self._places[key], place
                    self._back.pop(key, None)

    def _event(self, frame: types.FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            if (what := _outside(argument)) is not None and _is_of_ones_own(frame):
                self._refuse(what)
        elif event == "call":
            name = str(frame.f_globals.get("__name__"))
            what = _REFUSED.get(frame.f_code)
            if what is None and name.startswith(OF_THE_TRAINER):
                what = f"training_step reads its trainer's {frame.f_code.co_name}"
            if what is not None and _is_of_ones_own(frame.f_back):
                self._refuse(what)
            if frame.f_code is _ENVIRONMENT and _is_of_ones_own(frame):
                self._meet(_Place("os.environ", vars(os.environ), "_data"))
            if is_foreign(name) and frame.f_code.co_name != "<module>":
                self._enter(frame, name)
            elif name.startswith("torch.nn.modules.") and name != nn.Module.__module__:
                self._keys.update(names_in(frame.f_code))  # of a class that a module of one's own may be derived from

    def _refuse(self, what: str) -> None:
        self._refusal = self._refusal or what
        raise _Refused(what)

    def _enter(self, frame: types.FrameType, module: str) -> None:
        """Notes a function that is about to run, and all that it can read or change."""
        code, own = frame.f_code, is_own_module(module)
        if code not in self._codes:
            self._codes[code] = None
            names = set(names_in(code))
            self._keys |= names
            self._by_any_name = self._by_any_name or not BY_ANY_NAME.isdisjoint(names)
            self._meet_names(names, frame.f_globals, module)
            for instruction in dis.get_instructions(code):
                if instruction.opname == "STORE_DEREF" and instruction.argval in code.co_freevars:
                    self._refuse(f"{code.co_name} changes {instruction.argval}, which encloses it")
                if instruction.opname == "STORE_ATTR" and instruction.argval == "data":
                    self._refuse(f"{code.co_name} assigns to .data")
                if instruction.opname == "IMPORT_NAME" and instruction.argval in sys.modules:
                    self._meet_names(names, vars(sys.modules[instruction.argval]), instruction.argval)
        if own:
            values = frame.f_locals
            if code.co_freevars:
                ids = tuple(id(values[name]) for name in code.co_freevars if name in values)
                self._enclosed.setdefault(code, set()).add(ids)
            for value in values.values():
                if id(value) not in self._copies and _can_change(value):
                    self._meet(_Place(f"a {type(value).__name__} that {code.co_name} is given", value))
                    self._meet_classes_in([value])

    def _meet_names(self, names: set[str], space: dict[str, Any], module: str) -> None:
        """Takes up what names stand for in a module, and in the modules that stand there."""
        for name in sorted(names & space.keys()):
            value = space[name]
            if not isinstance(value, types.ModuleType):
                if is_own_module(module) or isinstance(value, PLAIN):
                    self._meet(_Place(f"{module}.{name}", space, name))
                    self._meet_classes_in([value])
            elif is_own_module(value.__name__):
                self._meet_names(names, vars(value), value.__name__)

    def _meet_classes_in(self, values: Iterable[Any], depth: int = 3) -> None:
        for value in values:
            if isinstance(value, type) or is_own_object(value):
                self._meet_class(value if isinstance(value, type) else type(value))
            self._by_any_name = self._by_any_name or isinstance(value, operator.attrgetter)
            inside: Any = value if isinstance(value, (list, tuple, set, frozenset, dict)) else ()
            if isinstance(value, types.SimpleNamespace) or is_own_object(value):
                inside = getattr(value, "__dict__", {})
            if depth and 0 < len(inside) < FEW:
                self._meet_classes_in(inside.values() if isinstance(inside, dict) else inside, depth - 1)

    def _meet_class(self, cls: type) -> None:
        for each in cls.__mro__:
            if each not in self._classes and is_own(each):
                self._classes[each] = None
                for key, value in list(vars(each).items()):
                    if (
                        key not in MAKING
                        and (isinstance(value, FUNCTIONS) or not is_dunder(key))
                        and key != "_abc_impl"
                    ):
                        self._meet(_Place(f"{name_of(each)}.{key}", each, key))
                        self._meet_classes_in([value])

    def _meet(self, place: _Place) -> None:
        key = id(place.space), place.key
        if key in self._places:
            return
        self._places[key] = place
        references = sys.getrefcount(place.space)
        try:
            self._back[key] = place.keeping()
        except Exception:  # of any kind, while it is described or copied
            if isinstance(place.space, dict):
                self._refuse(f"what {place.label} holds cannot be put back after a trial")
            self._problems.add(key)  # told if it was there before, and can be reached
        self._held[key] = sys.getrefcount(place.space) - references

    # Afterwards

    def _settle(self) -> None:
        """Leaves out what no code that ran can reach, and takes up what it encloses."""
        self._back.clear()
        for key, place in list(self._places.items()):
            if isinstance(place.space, type) and not (self.has(str(place.key)) or is_dunder(str(place.key))):
                del self._places[key]
            elif key in self._problems:
                raise CannotFuseError(f"what {place.label} holds cannot be put back after a trial")
        functions = gc.get_referrers(*self._enclosed) if self._enclosed else []
        for function in functions:
            if isinstance(function, types.FunctionType):
                inside = enclosed(function)
                if inside and tuple(map(id, inside)) in self._enclosed[function.__code__]:
                    self._meet(_Place(f"what {function.__qualname__} encloses", function))
        self._back.clear()
        labels: dict[str, int] = {}
        for key, place in self._places.items():
            labels[place.label] = labels.get(place.label, 0) + 1
            if labels[place.label] > 1:
                self._places[key] = replace(place, label=f"{place.label} ({labels[place.label]})")


def _names_of(module: nn.Module) -> tuple[dict[int, str], set[int]]:
    """The names of a module's tensors, and its submodules, by identity."""
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {id(tensor): name for name, tensor in tensors}, {id(child) for child in module.modules()}


def _is_of_ones_own(frame: types.FrameType | None) -> bool:
    """Whether code of one's own, or of a package beside torch, does this, perhaps by Python's or Lightning's."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        top = name.partition(".")[0]
        if top in KNOWN_PACKAGES - {"pytorch_lightning", "lightning"} or "importlib" in top:
            return False
        if is_foreign(name):
            return True
        frame = frame.f_back
    return False


def _outside(function: Any) -> str | None:
    """What a function in C reads or changes outside of the process's own memory, in words; else None."""
    name, owner = function.__name__, getattr(function, "__self__", None)
    module = function.__module__ or type(owner).__module__
    if name in PRINTING and module == "builtins":
        return "training_step prints" if name == "print" else f"training_step calls {name}"
    if isinstance(owner, type) and owner.__module__ == "datetime" and name in CLOCK:
        return f"training_step calls datetime.{name}"
    if isinstance(owner, torch.Generator) and name in ("manual_seed", "seed", "set_state"):
        return "training_step seeds a generator"
    if name in ("warn", "warn_explicit", "start_new_thread", "start_joinable_thread"):
        return "training_step warns" if name.startswith("warn") else "training_step starts a thread"
    if module in OUTSIDE and name not in NOT_OUTSIDE:
        return f"training_step calls {module.lstrip('_')}.{name}"
    return None


def _refused() -> dict[types.CodeType, str]:
    """Functions in Python that a step must not call."""
    refused = {}
    for name in OF_THE_MODULE:
        member: Any = vars(LightningModule)[name]
        member = member.fget if isinstance(member, property) else member
        refused[inspect.unwrap(member).__code__] = f"training_step reads self.{name}"
    for function in (torch.manual_seed, torch.seed, torch.set_rng_state):
        refused[inspect.unwrap(function).__code__] = "training_step seeds torch's generator"
    asking: list[Any] = [
        torch.compiler.is_compiling,
        torch.compiler.is_dynamo_compiling,
        torch._jit_internal.is_scripting,
    ]
    for function in asking:
        refused[function.__code__] = "training_step asks whether it is compiled"
    refused[logging.Logger._log.__code__] = "training_step logs to Python's logging"
    return refused


_REFUSED = _refused()
_ENVIRONMENT = type(os.environ).__getitem__.__code__


def _refuse_hooks(module: nn.Module, name: str) -> None:
    for hooks in HOOKS:
        if getattr(torch.nn.modules.module, f"_global{hooks}", None):
            raise CannotFuseError("a hook is registered on all modules")
        for hook in module.__dict__[hooks].values():
            if not str(getattr(hook, "__module__", type(hook).__module__)).startswith("torch."):
                raise CannotFuseError(f"a hook is registered on {name or 'the module'}")


def _can_change(value: Any) -> bool:
    if type(value) is RefusingValue:
        return False
    return isinstance(value, (list, dict, set, collections.deque, np.ndarray)) or is_own_object(value)


# How the content of an object that is no container is read and set.
CONTENTS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    np.ndarray: (np.copy, np.copyto),
    Tensor: (lambda value: value.detach().clone(), lambda value, content: value.detach().copy_(content)),
    random.Random: (random.Random.getstate, random.Random.setstate),
    torch.Generator: (torch.Generator.get_state, torch.Generator.set_state),
    np.random.RandomState: (np.random.RandomState.get_state, np.random.RandomState.set_state),
    np.random.Generator: (
        lambda value: value.bit_generator.state,
        lambda value, content: setattr(value.bit_generator, "state", content),
    ),
}


def _keeping(value: Any, seen: set[int] | None = None) -> Callable[[], None] | None:
    """Returns what puts the contents of a value back, in place; None if it has none that can change.

    Raises a TypeError where that is impossible.
    """
    seen = set() if seen is None else seen
    if isinstance(value, (*PLAIN, type, types.ModuleType, logging.Logger, enum.Enum, np.ufunc)) or id(value) in seen:
        return None
    seen.add(id(value))
    back: list[Callable[[], None]] = []
    inside: list[Any] = []
    for kind, (get, set_) in CONTENTS.items():
        if isinstance(value, kind):
            return partial(set_, value, copy.deepcopy(get(value)))
    if isinstance(value, (list, dict, set, collections.deque)):
        back.append(partial(_refill, value, copy.copy(value)))
    if isinstance(value, (list, dict, set, collections.deque, tuple, frozenset)):
        inside += value.values() if isinstance(value, dict) else value
    elif isinstance(value, (types.MethodType, types.BuiltinFunctionType, types.MethodWrapperType)):
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
    elif hasattr(type(value), "__next__") or not (has_attributes(value) or is_by_value(type(value))):
        raise TypeError(type(value).__name__)
    if not isinstance(value, nn.Module) and has_attributes(value):
        slots = slots_of(value)
        back += [partial(setattr, value, name, content) for name, content in slots.items()]
        inside += slots.values()
        if hasattr(value, "__dict__"):
            back.append(partial(_refill, vars(value), dict(vars(value))))
            inside += vars(value).values()
    back += [each for item in inside if (each := _keeping(item, seen)) is not None]
    return partial(_call_all, back) if back else None


def _refill(container: Any, content: Any) -> None:
    container.clear()
    container.extend(content) if isinstance(container, (list, collections.deque)) else container.update(content)


def _call_all(functions: list[Callable[[], None]]) -> None:
    for function in functions:
        function()
