"""Finds out which hooks of the user run, and whether they or schedules read gradients."""

import dis
import types
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from operator import attrgetter
from typing import Any

from pytorch_lightning import Callback, LightningDataModule, LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from multistep._calls import is_overridden
from multistep._describe import enclosed
from multistep._origins import PLAIN, attributes_of, contents_of, is_foreign, is_own, module_of, names_in
from multistep._reach import functions_in, named_in

# The attribute, and what of torch and Lightning reads or adds to gradients; Python's functions that read any attribute.
GRADIENTS = {"grad", "_grad", "grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_"}
GRADIENTS |= {"get_total_norm", "clip_gradients", "backward", "manual_backward", "optimizer_step"}
GRADIENTS |= {"attrgetter", "__getattribute__", "getmembers"}
CALLED = {"train_dataloader", "state_dict", "teardown", "step", "get_lr", "lr_lambdas"}  # besides hooks
BEFORE_TRAINING = {"on_fit_start", "on_train_start", "on_sanity_check_start", "on_sanity_check_end", "setup"}
BEFORE_TRAINING |= {"__init__", "prepare_data"}


def has_hooks(module: LightningModule) -> bool:
    """Returns whether a module overrides an `on_` hook of LightningModule."""
    hooks = [
        name for name in dir(LightningModule) if name.startswith("on_") and callable(getattr(LightningModule, name))
    ]
    return any(is_overridden(name, module, LightningModule) for name in hooks)


def has_state_hooks(optimizer: Optimizer) -> bool:
    """Returns whether a hook is registered on the optimizer's `state_dict`."""
    return bool(optimizer._optimizer_state_dict_pre_hooks or optimizer._optimizer_state_dict_post_hooks)


def reads_gradients(instances: Sequence[Any], module: LightningModule) -> bool:
    """Returns whether what training calls of some objects, or the code that this calls, names gradients of parameters.

    Args:
        instances: callbacks, modules and data modules, or schedules.
        module: the module that is trained, whose methods a callback may call.
    """
    waiting: list[Any] = [x for one in instances for name in sorted(_called_of(one)) for x in _of_name(name, one)]
    steps = not any(isinstance(one, LRScheduler) for one in instances)
    of_name = cache(lambda name: [value for one in (*instances, module) for value in _of_name(name, one)])
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if type(value) in PLAIN or id(value) in seen:  # a list may hold many plain values, such as words
            continue
        seen.add(id(value))
        waiting += contents_of(value)
        if isinstance(value, type) and is_own(value):
            waiting += vars(value).values()
        elif is_own(type(value)) and not isinstance(value, Tensor):
            waiting += [type(value), *(attributes_of(value) or {}).values()]
        if isinstance(value, attrgetter):
            return True
        for function in functions_in(value):
            if not is_foreign(module_of(function)):
                continue
            if _names_gradients(function.__code__, steps, function.__globals__):
                return True
            waiting += enclosed(function)
            names = {*names_in(function.__code__)}
            found = [function.__globals__.get(name) for name in names]
            waiting += [*found, *(x for owner in found for x in named_in(owner, names))]
            waiting += [value for name in names for value in of_name(name)]
    return False


def _called_of(instance: Any) -> set[str]:
    """Returns the names of the methods that training may call; of callbacks and data, Lightning's may call any."""
    names = {name for name in dir(instance) if name.startswith("on_")} | CALLED
    if isinstance(instance, (Callback, LightningDataModule)):
        names |= {name for kind in type(instance).__mro__ if is_own(kind) for name in vars(kind)}
        names |= {name for name, value in vars(instance).items() if callable(value)}
    return names - BEFORE_TRAINING


def _of_name(name: str, instance: Any) -> Iterator[Any]:
    """Yields what a name may refer to in an instance's class, attributes and submodules, without evaluating it."""
    own = vars(instance)
    found = (getattr(type(instance), name, None), own.get(name), own.get("_modules", {}).get(name))
    yield from (value for value in found if value is not None)


def _names_gradients(code: types.CodeType, steps: bool, space: dict[str, Any]) -> bool:
    """Returns whether a function's code contains a name in `GRADIENTS`, except as `autograd.grad`.

    An attribute `step` counts as one if `steps`: it may be that of the optimizer.
    """
    if any(_names_gradients(each, steps, space) for each in code.co_consts if isinstance(each, types.CodeType)):
        return True
    names = [*names_in(code), *code.co_varnames, *code.co_cellvars, *code.co_freevars]
    if (GRADIENTS | {"step", "getattr", "eval", "exec"}).isdisjoint(names):
        return False  # before listing the instructions, which takes long
    instructions = [*dis.get_instructions(code)]
    for number, each in enumerate(instructions):
        if each.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            if each.argval in ("eval", "exec"):
                return True
            if each.argval == "getattr" and _takes_a_variable(instructions[number:], space):
                return True
        elif steps and each.opname in ("LOAD_ATTR", "LOAD_METHOD") and each.argval == "step":
            return True
    names = [each.argval for each in instructions]
    return any(name in GRADIENTS and before != "autograd" for before, name in pairwise([None, *names]))


def _takes_a_variable(instructions: Sequence[dis.Instruction], space: dict[str, Any]) -> bool:
    """Returns whether the second argument of a call is no constant, unless the first one is of a module.

    Args:
        instructions: the first one loads the function that is called.
        space: the global names of the code.
    """
    if isinstance(space.get(str(instructions[1].argval)), types.ModuleType):
        return False
    depth, last = 0, None  # arguments on the stack, and the instruction that has completed the second one
    for each in instructions[1:]:
        if each.opname.startswith(("CALL", "PRECALL")) and each.arg == depth:
            return last is None or not isinstance(last.argval, str) or last.opcode not in dis.hasconst
        if each.opcode in (*dis.hasjrel, *dis.hasjabs):
            return True
        depth += dis.stack_effect(each.opcode, each.arg)
        last = each if depth == 2 else last
    return True
