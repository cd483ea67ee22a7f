"""Batches as flat lists of tensors, and back: any nesting of lists, tuples, dictionaries and dataclasses.

Torch's own pytrees would want dataclasses registered for the whole process.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

K = TypeVar("K")

CONSTANTS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


@dataclass(frozen=True)
class Layout:
    """What minibatches have in common that one compiled update serves: structure, shapes, dtypes, order, constants."""

    structure: tuple[Any, ...]
    tensors: tuple[tuple[torch.Size, torch.dtype, torch.device], ...]
    strides: tuple[tuple[int, ...] | None, ...]  # of tensors that are not contiguous, in whose order numbers are drawn
    example: Any = field(compare=False)  # a minibatch, of which `rebuild` makes others


def flatten(batch: Any) -> tuple[list[Tensor], Layout]:
    """Returns the tensors of a minibatch and its layout. Raises a TypeError where it holds anything but plain values.

    >>> tensors, layout = flatten({"x": torch.ones(2), "scale": 3})
    >>> rebuild(layout, [torch.zeros(2)])
    {'x': tensor([0., 0.]), 'scale': 3}
    """
    tensors: list[Tensor] = []

    def describe(value: Any) -> tuple[Any, ...]:
        if isinstance(value, Tensor):
            if type(value) is Tensor and vars(value):
                raise TypeError("the minibatch holds a tensor with attributes")
            tensors.append(value)
            return ("tensor",)
        if type(value) in CONSTANTS:
            return (type(value), repr(value) if isinstance(value, (float, complex)) else value)
        children = _children(value)
        if children is None:
            raise TypeError(f"the minibatch holds a {type(value).__name__}")
        return (type(value), *((key, describe(child)) for key, child in children))

    structure = describe(batch)
    kinds = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
    strides = tuple(None if is_contiguous(tensor) else tensor.stride() for tensor in tensors)
    return tensors, Layout(structure, kinds, strides, batch)


def is_simple(tensor: Tensor) -> bool:
    """Returns whether the memory of a tensor holds its numbers, and nothing else depends on them."""
    return tensor.layout == torch.strided and not (tensor.requires_grad or tensor.is_conj() or tensor.is_neg())


def is_contiguous(tensor: Tensor) -> bool:
    """Returns whether a tensor's numbers are in memory in the order of their indices."""
    return tensor.layout != torch.strided or tensor.is_contiguous()


def address_of(tensor: Tensor) -> int:
    """Returns where the memory of a tensor begins, 0 where it has none."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def is_dense(tensor: Tensor) -> bool:
    """Returns whether a tensor fills its memory without gaps or overlaps, as a new one like it does."""
    strides = zip(tensor.shape, tensor.stride(), torch.empty_like(tensor).stride(), strict=True)
    return tensor.numel() == 0 or all(size == 1 or one == other for size, one, other in strides)


def overlapping(tensors: Mapping[K, Tensor]) -> tuple[K, K] | None:
    """Returns the names of two tensors of which a number of one is in the memory of the other; None where none are.

    Each of them fills its memory without gaps.
    """
    sized = [(tensor.data_ptr(), tensor.numel() * tensor.element_size(), name) for name, tensor in tensors.items()]
    places = sorted(((begin, begin + size, name) for begin, size, name in sized if size), key=lambda place: place[:2])
    return next(((a, b) for (_, end, a), (begin, _, b) in pairwise(places) if begin < end), None)


def rebuild(layout: Layout, tensors: Sequence[Tensor]) -> Any:
    """Returns a minibatch of this layout with these tensors in the place of its own."""
    rest = iter(tensors)
    return _replaced(layout.example, lambda _: next(rest))


def _children(value: Any) -> list[tuple[Any, Any]] | None:
    attributes = getattr(value, "__dict__", None)
    if is_dataclass(value) and not isinstance(value, type):  # all of it, as it may have derived some from its fields
        slots = {one.name: getattr(value, one.name) for one in fields(value) if hasattr(value, one.name)}
        return list({**slots, **(attributes or {})}.items())
    if attributes:
        return None
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, (list, tuple)) else None


def _replaced(value: Any, new: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return new(value)
    children = _children(value)
    if children is None:
        return value
    replaced = {key: _replaced(child, new) for key, child in children}
    if isinstance(value, dict):
        other = copy.copy(value)
        other.update(replaced)
        return other
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*replaced.values())
    if isinstance(value, (list, tuple)):
        return type(value)(replaced.values())
    other = copy.copy(value)
    for key, child in replaced.items():
        object.__setattr__(other, key, child)
    return other
