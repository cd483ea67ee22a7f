"""What code and objects can reach that is not performed under watch: hooks, data, and metrics."""

import dis
import functools
import types
import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from multistep._describe import enclosed, is_foreign, is_own, is_own_object, names_in, slots_of
from multistep._tree import address_of

FEW = 1_000  # values in a container that are looked at
MAKING = ("__init__", "__new__", "__init_subclass__", "setup", "prepare_data")  # before anything is trained
# What reads gradients: the attribute, and functions of torch and Lightning.
GRADIENTS = {"grad", "grad_norm", "clip_grad_norm_", "clip_grad_value_", "get_total_norm"}
BEFORE_TRAINING = {"on_fit_start", "on_train_start", "on_sanity_check_start", "on_sanity_check_end"}


def reaches_the_training(values: Iterable[Any], kept: Iterable[Any], state: Iterable[Tensor]) -> bool:
    """Returns whether any value holds what a training changes, in its attributes, in its code, or in what those hold.

    Args:
        values: such as loaders.
        kept: what a training changes, such as the module and all within.
        state: the module's parameters and buffers.
    """
    storages = [tensor.untyped_storage() for tensor in state if address_of(tensor)]
    memory = [range(storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages]
    own = _Own({*map(id, kept)}, memory)
    return any(_reaches(value, own, set()) for value in values)


class _Own(NamedTuple):
    """What a training changes: objects by their identity, and memory."""

    objects: set[int]
    memory: list[range]

    def has_address(self, address: int) -> bool:
        return any(address in memory for memory in self.memory)


def _reaches(value: Any, own: _Own, seen: set[int], depth: int = 8) -> bool:
    if isinstance(value, (Trainer, LightningModule, nn.Parameter, Optimizer, LRScheduler)):
        return True
    if isinstance(value, Tensor):
        return own.has_address(address_of(value))
    if isinstance(value, (np.ndarray, memoryview)):
        return own.has_address(np.asarray(value).__array_interface__["data"][0])
    if id(value) in own.objects or (isinstance(value, nn.Module) and next(value.parameters(), None) is not None):
        return True
    if id(value) in seen or depth == 0 or isinstance(value, (str, bytes, type)):
        return False
    seen.add(id(value))
    inner: list[Any] = []
    if isinstance(value, FunctionType):
        if "trainer" in value.__code__.co_names:
            return True
        inner += enclosed(value)
        inner += [value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__]
    elif isinstance(value, MethodType):
        inner += [value.__func__, value.__self__]
    elif isinstance(value, weakref.ref):
        inner.append(value())
    elif isinstance(value, partial):
        inner += [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, (list, tuple, set, dict)):
        inner += (value.values() if isinstance(value, dict) else value) if len(value) < FEW else []
    elif not isinstance(value, ModuleType):
        if not isinstance(value, LightningDataModule):  # it has a trainer; whether it reads it is seen in its code
            inner += [*getattr(value, "__dict__", {}).values(), *slots_of(value).values()]
        inner += _code_of(type(value))
    return any(_reaches(each, own, seen, depth - 1) for each in inner)


def _code_of(kind: type) -> Iterator[FunctionType]:
    """The methods and properties that a class has of its own."""
    left = {*MAKING, *(vars(LightningDataModule) if issubclass(kind, LightningDataModule) else ())}
    for cls in kind.__mro__:
        if is_foreign(cls.__module__):
            for name in vars(cls).keys() - left:
                yield from _functions_in(vars(cls)[name])


def reads_gradients(instance: Any) -> bool:
    """Returns whether the hooks of a callback or module, or what they call, name the gradients of parameters."""
    hooks = {name for name in dir(type(instance)) if name.startswith("on_")} - BEFORE_TRAINING
    waiting: list[Any] = [getattr(type(instance), name) for name in sorted(hooks)]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (list, tuple, set, dict)):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, type) and is_own(value):
            waiting += vars(value).values()
        elif is_own_object(value):
            waiting += [type(value), *getattr(value, "__dict__", {}).values()]
        for function in _functions_in(value):
            if not is_foreign(str(function.__module__)):
                continue
            if _names_gradients(function.__code__):
                return True
            waiting += enclosed(function)
            for name in names_in(function.__code__):
                waiting += [
                    getattr(type(instance), name, None),
                    vars(instance).get(name),
                    function.__globals__.get(name),
                ]
    return False


def _names_gradients(code: types.CodeType) -> bool:
    """Whether a function's code has the name `grad`, but for `torch.autograd.grad`, or of what reads it."""
    inner = any(_names_gradients(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    names = [instruction.argval for instruction in dis.get_instructions(code)]
    return inner or any(name in GRADIENTS and before != "autograd" for before, name in pairwise([None, *names]))


def _functions_in(value: Any) -> Iterator[types.FunctionType]:
    if isinstance(value, types.FunctionType):
        yield value
    elif isinstance(value, (staticmethod, classmethod, types.MethodType)):
        yield from _functions_in(value.__func__)
    elif isinstance(value, (functools.partial, property)):
        yield from _functions_in(value.func if isinstance(value, functools.partial) else value.fget)
