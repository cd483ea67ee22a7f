"""Runs a compiled update: native code, with a plan of the memory that it works on."""

import ctypes
import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Inductor has been seen to read memory before it draws into it in place, so drawing is an operator of ours here.
_LIBRARY: Any = torch.library.Library("multistep", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define("bernoulli(Tensor like, float p) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
_LIBRARY.impl("bernoulli", lambda like, p: torch.empty_like(like).bernoulli_(p), "CPU")
_LIBRARY.impl("bernoulli", lambda like, p: torch.empty_like(like), "Meta")


def _within(index: Tensor, size: int) -> Tensor:
    least, most = (int(bound) for bound in index.aminmax()) if index.numel() else (0, 0)
    if least < 0 or most >= size:
        raise IndexError(f"index {least if least < 0 else most} is out of bounds for a dimension with size {size}")
    return index.clone()


# Returns an index unchanged if all its values are in [0, size); some operators of inductor do not check.
_LIBRARY.define("within(Tensor index, int size) -> Tensor")
_LIBRARY.impl("within", _within, "CPU")
_LIBRARY.impl("within", lambda index, size: torch.empty_like(index), "Meta")

ARENA = -1  # the memory of all intermediate values of an update


@dataclass(frozen=True)
class BufferView:
    """Locates a tensor in the arena or in an input, from a byte on."""

    memory: int  # the number of the input, or ARENA
    offset: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    conjugated: bool = False  # whether reading must conjugate the values, which torch defers
    negated: bool = False


@dataclass(frozen=True)
class Call:
    """A call of a torch operator by native code: its name, its arguments, and where its results go."""

    operator: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[BufferView, ...]


@dataclass(frozen=True)
class Plan:
    """The sizes, constants and operators that native code needs to run.

    Args:
        arena: the size of the arena in bytes.
        advance: the bytes by which each input moves from one minibatch to the next, 0 if it stays.
        constants: the last inputs, which come with the code.
        calls: the torch operators that the code calls.
    """

    arena: int
    advance: tuple[int, ...]
    constants: tuple[Tensor, ...] = ()
    calls: tuple[Call, ...] = field(default=())


class Program:
    """Performs updates on tensors in place, one minibatch after the other."""

    def __init__(self, library: Path, plan: Plan) -> None:
        self._plan = plan
        self._arena = torch.empty(plan.arena, dtype=torch.uint8)
        self._code = ctypes.CDLL(str(library)).run_updates
        self._code.restype = ctypes.c_char_p
        self._callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64, ctypes.c_int64)(self._call)
        self._operators = [_operator(call.operator) for call in plan.calls]
        self._error: BaseException | None = None

    def run(self, inputs: Sequence[Tensor], count: int) -> None:
        """Performs `count` minibatches on inputs of the shapes and dtypes for which the code was compiled."""
        self._inputs = [*inputs, *self._plan.constants]
        if len(self._inputs) != len(self._plan.advance):
            raise ValueError(f"the code takes {len(self._plan.advance)} tensors, not {len(self._inputs)}")
        pointers = (ctypes.c_void_p * len(self._inputs))(*(tensor.data_ptr() for tensor in self._inputs))
        message = self._code(pointers, ctypes.c_void_p(self._arena.data_ptr()), ctypes.c_int64(count), self._callback)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if message is not None:
            raise RuntimeError(message.decode())

    def _call(self, number: int, minibatch: int) -> int:
        """Calls a torch operator for native code, on the present minibatch; returns 0 if it raised no exception."""
        try:
            call, at = self._plan.calls[number], functools.partial(self._tensor_at, minibatch)
            with torch.no_grad():
                found = self._operators[number](*_mapped(call.args, at), **_mapped(call.kwargs, at))
                fresh = [value for value in _listed(found) if isinstance(value, Tensor)] if call.results else []
                for place, value in zip(call.results, fresh, strict=True):
                    at(place).copy_(value)
        except BaseException as error:  # an exception cannot pass through native code
            self._error = error
            return 1
        return 0

    def _tensor_at(self, minibatch: int, place: BufferView) -> Tensor:
        tensor, offset = self._arena, place.offset
        if place.memory != ARENA:
            tensor = self._inputs[place.memory]
            offset += int(tensor.storage_offset()) * tensor.itemsize + minibatch * self._plan.advance[place.memory]
        typed, storage = torch.empty(0, dtype=place.dtype), tensor.untyped_storage()
        typed.set_(storage, offset // typed.itemsize, place.size, place.stride)
        typed = typed.conj() if place.conjugated else typed
        return torch._neg_view(typed) if place.negated else typed


def _operator(name: str) -> Any:
    return operator.attrgetter(name)(torch.ops)


def _mapped(value: Any, at: Any) -> Any:
    if isinstance(value, BufferView):
        return at(value)
    if isinstance(value, dict):
        return {key: _mapped(item, at) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(item, at) for item in value]
    return value


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
