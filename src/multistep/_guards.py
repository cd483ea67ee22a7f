"""Guards around a module's own step while it is traced or tried on a copy: what it must not read, and what it changes.

A compiled update repeats the tensor operations of one step. Whatever else the step does would be done once instead of
at every update, so it is noticed here, and the step is performed as Python.
"""

import builtins
import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from multistep._errors import CannotFuseError

OF_THE_MODULE = (
    "trainer",
    "fabric",
    "global_step",
    "current_epoch",
    "global_rank",
    "local_rank",
    "logger",
    "loggers",
    "optimizers",
    "lr_schedulers",
    "manual_backward",
    "print",
)
OF_THE_TRAINER = ("global_step", "current_epoch", "callback_metrics", "logged_metrics", "progress_bar_metrics")


def _refuse(*_: Any, **__: Any) -> Any:
    raise CannotFuseError("training_step uses batch_idx")


_OF_NUMBERS = {name for name in dir(int) if name.startswith("__")} - {"__new__", "__class__", "__init__", "__doc__"}
_LEFT = {"__init_subclass__", "__subclasshook__", "__getattribute__", "__setattr__", "__delattr__", "__reduce__"}
# Stands for `batch_idx` in a step that must not use it: whatever is done with it raises a CannotFuseError.
RefusingIndex: Any = type(
    "RefusingIndex", (), {"__getattr__": _refuse, **dict.fromkeys(_OF_NUMBERS - _LEFT - {"__reduce_ex__"}, _refuse)}
)


@contextmanager
def guarded() -> Iterator[None]:
    """Within, a step that reads the trainer, prints, or draws from Python's or NumPy's generators is refused.

    Afterwards the random states are what they were before, torch's included; within, torch's begins with seed 0.
    """
    found: list[str] = []

    def refused(what: str) -> Any:
        def raise_(*_: Any, **__: Any) -> Any:
            found.append(what)
            raise CannotFuseError(what)

        return raise_

    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were heard at the first update, which Lightning itself performs
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(0)
        for name in OF_THE_MODULE:
            new: Any = refused(f"training_step reads self.{name}")
            if isinstance(vars(LightningModule).get(name), property):
                new = property(new)
            stack.enter_context(mock.patch.object(LightningModule, name, new))
        for name in OF_THE_TRAINER:
            stack.enter_context(
                mock.patch.object(Trainer, name, property(refused(f"training_step reads its trainer's {name}")))
            )
        stack.enter_context(mock.patch.object(builtins, "print", refused("training_step prints")))
        stack.enter_context(mock.patch.object(builtins, "input", refused("training_step asks for input")))
        stack.enter_context(mock.patch.object(builtins, "open", _refusing_to_write(builtins.open, refused)))
        stack.enter_context(mock.patch.object(logging.Logger, "callHandlers", _only_libraries(refused)))
        try:
            yield
        finally:
            drew = random.getstate() != python_state or not _same(np.random.get_state(), numpy_state)  # noqa: NPY002
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
    if found:  # and swallowed by the step
        raise CannotFuseError(found[0])
    if drew:
        raise CannotFuseError("training_step draws from Python's or NumPy's random numbers")


def _refusing_to_write(original: Any, refused: Any) -> Any:
    def open_(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return (
            refused("training_step writes a file")()
            if set(mode) & set("wax+")
            else original(file, mode, *args, **kwargs)
        )

    return open_


def _only_libraries(refused: Any) -> Any:
    """Has the records of torch's and Lightning's loggers dropped, as they would come at every update, or not at all."""

    def call_handlers(logger: logging.Logger, _record: logging.LogRecord) -> None:
        if logger.name.partition(".")[0] not in {"torch", "pytorch_lightning", "lightning", "lightning_fabric"}:
            refused("training_step logs to Python's logging")()

    return call_handlers


def _same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in zip(one, other, strict=True))


@contextmanager
def unchanged(tensors: list[Tensor]) -> Iterator[None]:
    """Within, a step on copies is performed; raises a CannotFuseError, and undoes it, where it changes these originals.

    A step that reaches its module by another way than `self`, such as a lambda of the constructor, does.
    """
    before = [tensor.detach().clone() for tensor in tensors]
    gradients = [tensor.grad for tensor in tensors]
    copies = [gradient.clone() if gradient is not None else None for gradient in gradients]
    changed = False
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value, gradient, copy in zip(tensors, before, gradients, copies, strict=True):
                if not _identical(tensor, value):
                    tensor.detach().copy_(value)
                    changed = True
                if tensor.grad is not gradient or (copy is not None and not _identical(gradient, copy)):
                    tensor.grad = copy
                    changed = True
    if changed:
        raise CannotFuseError("training_step changes tensors that it reaches by another way than self")


def _identical(one: Any, other: Any) -> bool:
    return (
        torch.equal(one.detach().flatten().view(torch.uint8), other.flatten().view(torch.uint8))
        if (one.is_contiguous() and other.is_contiguous())
        else torch.equal(one, other)
    )
