"""Refuses calls that read or change more than tensors, because compiled code would make them once or never."""

import inspect
import logging
import os
import types
from typing import Any

import torch
from pytorch_lightning import LightningModule

from multistep._origins import KNOWN_PACKAGES, is_foreign

# Members of LightningModule whose values change from update to update, or that have side effects.
OF_THE_MODULE = {"trainer", "fabric", "global_step", "current_epoch", "global_rank", "local_rank", "logger", "loggers"}
OF_THE_MODULE |= {"optimizers", "lr_schedulers", "manual_backward", "print"}
OF_THE_TRAINER = ("pytorch_lightning.trainer", "pytorch_lightning.loops", "pytorch_lightning.loggers")
# Python's C modules whose functions read or change something outside the process's own memory.
OUTSIDE = {"time", "posix", "nt", "_io", "_socket", "socket", "_ssl", "_sqlite3", "sqlite3", "select", "mmap"}
OUTSIDE |= {"_posixsubprocess", "_winapi", "_contextvars", "_signal"}
NOT_OUTSIDE = {"fspath", "_path_normpath", "_path_splitroot", "_path_splitroot_ex"}
WRAPPERS = ("torch._compile", "torch._dynamo")  # torch calls some of its own functions through these
CLOCK = {"now", "today", "utcnow"}
PRINTING = {"print", "input", "open", "breakpoint"}


def refused_in_c(function: Any) -> str | None:
    """Returns the reason why a step must not call this C function, or None."""
    name, owner = function.__name__, getattr(function, "__self__", None)
    module = function.__module__ or type(owner).__module__
    if name in PRINTING and module == "builtins":
        return "training_step prints" if name == "print" else f"training_step calls {name}"
    if isinstance(owner, type) and owner.__module__ == "datetime" and name in CLOCK:
        return f"training_step calls datetime.{name}"
    if isinstance(owner, torch.Generator) and name in ("manual_seed", "seed", "set_state"):
        return "training_step seeds a generator"
    if name in ("warn", "warn_explicit", "start_new_thread", "start_joinable_thread"):
        return "training_step issues a warning" if name.startswith("warn") else "training_step starts a thread"
    if module in OUTSIDE and name not in NOT_OUTSIDE:
        return f"training_step calls {module.lstrip('_')}.{name}"
    return None


def _refused() -> dict[types.CodeType, str]:
    """Returns the Python functions that a step must not call, as code objects, each with the reason."""
    refused = {}
    for name in OF_THE_MODULE:
        member: Any = vars(LightningModule)[name]
        member = member.fget if isinstance(member, property) else member
        refused[inspect.unwrap(member).__code__] = f"training_step reads self.{name}"
    for function in (torch.manual_seed, torch.seed, torch.set_rng_state):
        refused[inspect.unwrap(function).__code__] = "training_step seeds torch's generator"
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
        if name.startswith(WRAPPERS):
            frame = frame.f_back
            continue
        if top in KNOWN_PACKAGES - {"pytorch_lightning", "lightning"} or "importlib" in top:
            return False
        if is_foreign(name):
            return True
        frame = frame.f_back
    return False
