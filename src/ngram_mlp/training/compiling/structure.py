"""What compiled code depends on: the structure of a network, and the sources in which it is written."""

import enum
import hashlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ngram_mlp.training.optimizers import CannotFuseError

PLAIN = (bool, int, float, complex, str, bytes, type(None))
# What a bare module has of its own; parameters, buffers and submodules are described by themselves.
OF_EVERY_MODULE = set(nn.Module().__dict__) - {"training"}
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class Unknown(str):
    """Stands for a value that is only known by its identity: what depends on it cannot outlive the process."""


def structure_of(network: nn.Module) -> list[Any]:
    """The classes and attributes of all modules of a network, as plain values that can be compared.

    Raises a CannotFuseError where a hook is registered, which would be called at every update.
    """
    described: list[Any] = []
    for name, module in network.named_modules():
        own = module.__dict__
        for hooks in HOOKS:
            for hook in own[hooks].values():
                if not _module_of(hook).startswith("torch."):  # torch's own compute weights
                    raise CannotFuseError(f"a hook is registered on {name or 'the network'}")
        attributes = [(key, _described(value)) for key, value in own.items() if key not in OF_EVERY_MODULE]
        described.append((name, _name_of(type(module)), attributes))
    for name, parameter in network.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise CannotFuseError(f"a hook is registered on the parameter {name}")
        described.append((name, parameter.requires_grad))
    return described


def is_known(structure: Any) -> bool:
    """Whether a structure holds nothing that is only known by its identity."""
    if isinstance(structure, (list, tuple)):
        return all(map(is_known, structure))
    return not isinstance(structure, Unknown)


def sources_of(network: nn.Module) -> str | None:
    """A digest of the files in which the classes of a network are written, and of those which these import.

    Torch's and the standard library's are left out, and of other installed packages those that they import. None where
    there is no file, as in a notebook.
    """
    modules = {cls.__module__ for module in network.modules() for cls in type(module).__mro__}
    waiting, seen = {name for name in modules if _is_foreign(name)}, set()
    digest = hashlib.sha256()
    files = []
    while waiting:
        name = waiting.pop()
        seen.add(name)
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if module is None or file is None or not Path(file).is_file():
            return None
        files.append(file)
        if "site-packages" not in Path(file).parts:
            waiting |= set(_imported(module)) - seen
    for file in sorted(files):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _imported(module: ModuleType) -> Iterator[str]:
    """The modules of which another one has something among its names."""
    for value in list(vars(module).values()):
        name = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
        if isinstance(name, str) and name in sys.modules and _is_foreign(name):
            yield name


def _is_foreign(name: str) -> bool:
    return name.partition(".")[0] not in {"torch", *sys.stdlib_module_names} or name == "__main__"


def _described(value: Any) -> Any:
    if isinstance(value, (enum.Enum, torch.dtype, torch.device)):
        return [type(value).__name__, str(value)]
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(_described, value)]
    if isinstance(value, dict):
        return ["dict", *((_described(key), _described(item)) for key, item in value.items())]
    if isinstance(value, Tensor):
        return ["Tensor", hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()]
    if is_dataclass(value) and not isinstance(value, type):
        return [_name_of(type(value)), *(_described(getattr(value, field.name)) for field in fields(value))]
    if isinstance(value, (type, FunctionType, BuiltinFunctionType)) and "<" not in value.__qualname__:
        return _name_of(value)
    return Unknown(f"{type(value).__name__} {id(value)}")


def _name_of(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _module_of(hook: Any) -> str:
    return str(getattr(hook, "__module__", type(hook).__module__))
