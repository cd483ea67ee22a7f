"""Whether objects that are used ahead of the updates, or after them, can reach what those change."""

from collections.abc import Iterable
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn

from multistep._describe import enclosed, is_foreign


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
