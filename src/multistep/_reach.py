"""What code and objects can reach that is not performed under watch: hooks, data, and metrics."""

import dis
import functools
import types
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise
from types import FunctionType, MethodType, ModuleType
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn

from multistep._describe import enclosed, is_foreign, is_own, is_own_object, names_in

# What reads gradients: the attribute, and functions of torch and Lightning.
GRADIENTS = {"grad", "grad_norm", "clip_grad_norm_", "clip_grad_value_", "get_total_norm"}
BEFORE_TRAINING = {"on_fit_start", "on_train_start", "on_sanity_check_start", "on_sanity_check_end"}


def reaches_the_training(values: Iterable[Any]) -> bool:
    """Returns whether any value holds a trainer, or parameters, in its attributes or in what those hold."""
    return any(_reaches(value, set()) for value in values)


def _reaches(value: Any, seen: set[int], depth: int = 6) -> bool:
    if isinstance(value, (Trainer, nn.Parameter)):
        return True
    if isinstance(value, nn.Module):
        return isinstance(value, LightningModule) or next(value.parameters(), None) is not None
    if id(value) in seen or depth == 0 or isinstance(value, (Tensor, str, bytes, type)):
        return False
    seen.add(id(value))
    if isinstance(value, LightningDataModule):  # it has a trainer: whether its methods read it is seen in their code
        own = [each for cls in type(value).__mro__ if is_foreign(cls.__module__) for each in vars(cls).items()]
        methods = [each for name, each in own if name not in vars(LightningDataModule) and not name.startswith("__")]
        return any(_reaches(each, seen, depth - 1) for each in methods if isinstance(each, FunctionType))
    inner: list[Any] = list(getattr(value, "__dict__", {}).values()) if not isinstance(value, ModuleType) else []
    if isinstance(value, FunctionType):
        if "trainer" in value.__code__.co_names:
            return True
        inner += enclosed(value)
        inner += [value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__]
    elif isinstance(value, MethodType):
        inner += [value.__func__, value.__self__]
    elif isinstance(value, partial):
        inner += [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, (list, tuple, set)) and len(value) < 1_000:
        inner += list(value)
    elif isinstance(value, dict) and len(value) < 1_000:
        inner += list(value.values())
    code = [
        getattr(type(value), name, None) for name in ("__getitem__", "__getitems__", "__iter__", "__next__", "draw")
    ]
    inner += [method for method in code if isinstance(method, FunctionType) and is_foreign(str(method.__module__))]
    return any(_reaches(each, seen, depth - 1) for each in inner)


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
