"""Guards code that runs on copies, is traced, or runs ahead of time, so that it changes nothing else."""

import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves

from multistep._errors import CannotFuseError
from multistep._tree import address_of

SEED = 0x5EED_0F_7E575  # no step seeds with it
# Attributes of the trainer that do not change during a chunk.
CONSTANT = {"max_epochs", "max_steps", "accumulate_grad_batches", "num_training_batches", "estimated_stepping_batches"}
CONSTANT |= {"datamodule", "world_size", "num_devices", "global_rank", "local_rank", "limit_train_batches"}


class RefusingTrainer:
    """Stands for a copy's trainer, and refuses access, for example by a module's method that is stored elsewhere."""

    def __getattr__(self, name: str) -> Any:
        raise CannotFuseError("training_step logs other than through self.log, or uses the trainer")


class _Refusing:
    def __init__(self, what: str, **attributes: Any) -> None:
        vars(self).update(attributes, what=what)


def _refuse(value: Any, *_: Any, **__: Any) -> Any:
    raise CannotFuseError(object.__getattribute__(value, "what"))


def _itself(value: Any, _: Any) -> Any:
    return value


_OPERATIONS = {name for kind in (int, list, Tensor) for name in dir(kind) if name.startswith("__")} - set(dir(object))
_OPERATIONS |= {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__repr__", "__str__"}
_OPERATIONS -= {"__dict__", "__module__", "__weakref__", "__setstate__", "__deepcopy__", "__torch_function__"}
# Stands for a value that must not be used: every operation on it, even `isinstance`, raises a CannotFuseError.
RefusingValue: Any = type(
    "RefusingValue",
    (_Refusing,),
    {
        **dict.fromkeys(_OPERATIONS | {"__getattr__", "__format__"}, _refuse),
        "__class__": property(_refuse),
        "__deepcopy__": _itself,
    },
)


def active_modes() -> list[str]:
    """Returns the names of the active torch modes that intercept every operation."""
    modes = [*_get_current_dispatch_mode_stack(), *_get_current_function_mode_stack()]  # type: ignore[no-untyped-call]
    hooked = torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
    return [*(type(mode).__name__ for mode in modes), *(["saved_tensors_hooks"] if hooked else [])]


def surroundings() -> list[Any]:
    """Returns the global settings that affect torch's operations."""
    autocast = torch.is_autocast_enabled("cpu") and str(torch.get_autocast_dtype("cpu"))
    return [str(torch.get_default_dtype()), autocast, torch.get_float32_matmul_precision(), active_modes()]


def random_states() -> list[Any]:
    """Returns the states of Python's, NumPy's and torch's generators, as comparable values."""
    of_numpy = [x.tolist() if isinstance(x, np.ndarray) else x for x in np.random.get_state()]  # noqa: NPY002
    return [random.getstate(), of_numpy, torch.get_rng_state().tolist()]


@contextmanager
def guarded(random_state: Tensor | None = None) -> Iterator[None]:
    """Silences warnings, and raises a CannotFuseError if the block draws from Python's or NumPy's generators.

    Torch's generator starts from a fixed seed, or from `random_state`. All random states are restored afterwards.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # Lightning's own first update has shown them
        torch.default_generator.manual_seed(SEED)
        if random_state is not None:
            torch.set_rng_state(random_state)
        try:
            yield
        finally:
            drew = random.getstate() != python_state or not _same(np.random.get_state(), numpy_state)  # noqa: NPY002
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
    if drew:
        raise CannotFuseError("an update draws from Python's or NumPy's random number generator")


@contextmanager
def reading_nothing(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Raises a CannotFuseError if the block draws random numbers, or reads the trainer or one of these tensors."""
    refusals = _Refusals()
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    storages = set(map(address_of, tensors)) - {0}
    with ExitStack() as stack:
        _set(stack, Trainer, "__getattribute__", _only_constants(refusals))
        stack.enter_context(_Watched(storages, refusals.of("it reads tensors that the updates change")))
        try:
            yield
        finally:
            after = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            torch.set_rng_state(before[2])
    refusals.raise_swallowed()
    if after[0] != before[0] or not _same(after[1], before[1]) or not torch.equal(after[2], before[2]):
        raise CannotFuseError("it draws random numbers")


def _only_constants(refusals: "_Refusals") -> Any:
    refuse = refusals.of("it reads the trainer")
    within: list[str] = []

    def read(trainer: Any, name: str) -> Any:
        if not within and name not in CONSTANT and not name.startswith("__"):
            refuse()
        within.append(name)
        try:
            return object.__getattribute__(trainer, name)
        finally:
            within.pop()

    return read


class _Watched(TorchFunctionMode):
    """Refuses any operation on a tensor in one of these storages."""

    def __init__(self, storages: set[int], refuse: Callable[..., Any]) -> None:
        super().__init__()
        self._storages, self._refuse = storages, refuse

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            for value in tree_leaves([args, kwargs]):
                if isinstance(value, Tensor) and address_of(value) in self._storages:
                    self._refuse()
            return func(*args, **(kwargs or {}))


def _set(stack: ExitStack, owner: Any, name: str, new: Any) -> None:
    """Sets an attribute until the stack closes, in a tenth of the time of `unittest.mock`."""
    own, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, new)
    stack.callback(*((setattr, owner, name, before) if own else (delattr, owner, name)))


class _Refusals:
    """Makes functions that raise a CannotFuseError, and records it in case their caller swallows it."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def of(self, what: str) -> Callable[..., Any]:
        def refuse(*_: Any, **__: Any) -> Any:
            self._found.append(what)
            raise CannotFuseError(what)

        return refuse

    def raise_swallowed(self) -> None:
        if self._found:
            raise CannotFuseError(self._found[0])


def _same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in zip(one, other, strict=True))


@contextmanager
def unchanged(tensors: list[Tensor]) -> Iterator[None]:
    """Raises a CannotFuseError if a step on copies changes these original tensors, and restores them.

    A step changes them if it reaches its module other than through `self`, for example by a lambda of the constructor.
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
                if not identical(tensor, value):
                    tensor.detach().copy_(value)
                    changed = True
                if tensor.grad is not gradient or (copy is not None and not identical(gradient, copy)):
                    tensor.grad = copy
                    changed = True
    if changed:
        raise CannotFuseError("training_step changes parameters, buffers or optimizer state other than through self")


def identical(one: Any, other: Any) -> bool:
    """Returns whether two tensors have the same bits, or the same values if one of them is not contiguous."""
    return (
        torch.equal(one.detach().flatten().view(torch.uint8), other.flatten().view(torch.uint8))
        if (one.is_contiguous() and other.is_contiguous())
        else torch.equal(one, other)
    )
