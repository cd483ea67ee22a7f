"""Refuses calls that read or change more than tensors, because compiled code would make them once or never."""

import dis
import inspect
import logging
import os
import sys
import types
from typing import Any

import torch
from pytorch_lightning import LightningModule

from multistep._origins import KNOWN_PACKAGES, is_foreign, is_own_module

# Members of LightningModule whose values change from update to update, or that have side effects.
OF_THE_MODULE = {"trainer", "fabric", "global_step", "current_epoch", "global_rank", "local_rank", "logger", "loggers"}
OF_THE_MODULE |= {"optimizers", "lr_schedulers", "manual_backward", "print"}
OF_THE_TRAINER = ("pytorch_lightning.trainer", "pytorch_lightning.loops", "pytorch_lightning.loggers")
# Python's C modules whose functions read or change something outside the process's own memory.
OUTSIDE = {"time", "posix", "nt", "_io", "_socket", "socket", "_ssl", "_sqlite3", "sqlite3", "select", "mmap"}
OUTSIDE |= {"_csv", "_posixsubprocess", "_winapi", "_contextvars", "_signal"}
NOT_OUTSIDE = {"fspath", "_path_normpath", "_path_splitroot", "_path_splitroot_ex"}
WRAPPERS = ("torch._compile", "torch._dynamo")  # torch calls some of its own functions through these
CLOCK = {"now", "today", "utcnow"}
OF_GENERATORS = {"manual_seed", "seed", "set_state", "initial_seed", "get_state"}
OF_DECIMAL = {"getcontext", "setcontext", "localcontext"}
IDENTITY = {"id", "hash"}
PRINTING = {"print", "input", "open", "breakpoint"}


def refused_in_c(function: Any) -> str | None:
    """Returns the reason why a step must not call this C function, or None."""
    name, owner = function.__name__, getattr(function, "__self__", None)
    module = function.__module__ or type(owner).__module__
    if name in PRINTING and module == "builtins":
        return "training_step prints" if name == "print" else f"training_step calls {name}"
    if name in IDENTITY and module == "builtins":
        return f"training_step calls {name}, which is another one for a copy"
    if isinstance(owner, type) and owner.__module__ == "datetime" and name in CLOCK:
        return f"training_step calls datetime.{name}"
    if isinstance(owner, torch.Generator) and name in OF_GENERATORS:
        return "training_step seeds a generator, or reads its state"
    if name in ("warn", "warn_explicit", "start_new_thread", "start_joinable_thread"):
        return "training_step issues a warning" if name.startswith("warn") else "training_step starts a thread"
    if (module == "sys" and name.startswith("set")) or name in OF_DECIMAL:
        return f"training_step calls {module.lstrip('_')}.{name}"
    if module in OUTSIDE and name not in NOT_OUTSIDE:
        return f"training_step calls {module.lstrip('_')}.{name}"
    return None


class RefusedError(BaseException):
    """Raised when a step makes a refused call; an `except Exception` in the step does not catch it."""


def imports_in(code: types.CodeType) -> list[str]:
    """Returns the names of the modules that a function imports."""
    return [each.argval for each in dis.get_instructions(code) if each.opname == "IMPORT_NAME"]


def refused_in_code(code: types.CodeType, space: dict[str, Any]) -> str | None:
    """Returns the reason why a step must not run this function, or None.

    Args:
        code: the function's code.
        space: its global names.
    """
    value, kept = None, None  # the module that the last instruction has loaded, and one below it on the stack
    local: dict[str, Any] = {}  # the modules that the function imports
    for instruction in dis.get_instructions(code):
        operation, argument = instruction.opname, instruction.argval
        if operation == "STORE_DEREF" and argument in code.co_freevars:
            return f"{code.co_name} changes {argument}, a variable of an enclosing function"
        if operation == "STORE_ATTR" and argument == "data":
            return f"{code.co_name} assigns to .data"
        if operation == "STORE_ATTR" and isinstance(value, types.ModuleType) and not is_own_module(value.__name__):
            return f"{code.co_name} changes {value.__name__}.{argument}"
        if argument == "_version" and operation == "LOAD_ATTR":
            return f"{code.co_name} reads the version of a tensor"
        if operation == "COPY":
            kept = value
        elif operation == "STORE_FAST":
            local[argument], value = value, None
        else:
            names = local if operation == "LOAD_FAST" else space
            value = kept if operation == "SWAP" else _loaded_by(operation, argument, value, names)
    return None


def _loaded_by(operation: str, argument: Any, value: Any, names: dict[str, Any]) -> Any:
    """Returns the value that an instruction leaves on the stack, if it may be a module."""
    if operation == "IMPORT_NAME":
        return sys.modules.get(argument.partition(".")[0])
    if operation in ("LOAD_ATTR", "LOAD_METHOD"):
        return vars(value).get(argument) if isinstance(value, types.ModuleType) else None
    return names.get(argument) if operation in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FAST") else None


def _refused() -> dict[types.CodeType, str]:
    """Returns the Python functions that a step must not call, as code objects, each with the reason."""
    refused = {}
    for name in OF_THE_MODULE:
        member: Any = vars(LightningModule)[name]
        member = member.fget if isinstance(member, property) else member
        refused[inspect.unwrap(member).__code__] = f"training_step reads self.{name}"
    seeding: list[Any] = [torch.manual_seed, torch.seed, torch.set_rng_state]
    reading: list[Any] = [torch.initial_seed, torch.get_rng_state]
    refused |= {inspect.unwrap(each).__code__: "training_step seeds torch's generator" for each in seeding}
    refused |= {inspect.unwrap(each).__code__: "training_step reads torch's random state" for each in reading}
    refused |= {each.__code__: f"training_step calls torch.{each.__name__}" for each in (torch.save, torch.load)}
    for function in (torch.compiler.is_compiling, torch.compiler.is_dynamo_compiling, torch._jit_internal.is_scripting):
        refused[function.__code__] = "training_step checks whether it is being compiled"
    refused[logging.Logger._log.__code__] = "training_step uses Python's logging"
    return refused


REFUSED = _refused()
SET_STATE = inspect.unwrap(torch.set_rng_state).__code__
ENVIRONMENT = type(os.environ).__getitem__.__code__


def is_of_ones_own(frame: types.FrameType | None) -> bool:
    """Returns whether user or third-party code makes this call, perhaps through the standard library or Lightning."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        top = name.partition(".")[0]
        if name.startswith(WRAPPERS) or top == "numpy":  # numpy opens files for its caller
            frame = frame.f_back
            continue
        if top in KNOWN_PACKAGES - {"pytorch_lightning", "lightning"} or "importlib" in top:
            return False
        if is_foreign(name):
            return True
        frame = frame.f_back
    return False
