"""Flattens batches to lists of tensors, and back: any nesting of lists, tuples, dictionaries and dataclasses.

Torch's own pytrees require dataclasses to be registered for the whole process.
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
    """The common form of one compiled update's minibatches: structure, shapes, dtypes, memory order, constants."""

    structure: tuple[Any, ...]
    tensors: tuple[tuple[torch.Size, torch.dtype, torch.device], ...]
    strides: tuple[tuple[int, ...] | None, ...]  # of non-contiguous tensors, as random numbers are drawn in this order
    example: Any = field(compare=False)  # the minibatch from which `rebuild` makes others


def flatten(batch: Any) -> tuple[list[Tensor], Layout]:
    """Returns the tensors of a minibatch and its layout. Raises a TypeError if it holds anything but plain values.

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
        if any(isinstance(key, Tensor) for key, _ in children):
            raise TypeError("the minibatch holds a tensor as a key")
        keys = [key if type(key) in (str, int) else describe(key) for key, _ in children]
        return (type(value), *zip(keys, (describe(child) for _, child in children), strict=True))

    structure = describe(batch)
    kinds = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
    strides = tuple(None if is_contiguous(tensor) else tensor.stride() for tensor in tensors)
    return tensors, Layout(structure, kinds, strides, batch)


def is_simple(tensor: Tensor) -> bool:
    """Returns whether a tensor is strided, requires no gradient, and is not lazily conjugated or negated."""
    return tensor.layout == torch.strided and not (tensor.requires_grad or tensor.is_conj() or tensor.is_neg())


def is_moderate(tensor: Tensor) -> bool:
    """Returns whether the squares of a tensor's values have a finite sum: no value is nan, infinite or huge."""
    is_exact = not (tensor.is_floating_point() or tensor.is_complex())
    return is_exact or bool(torch.linalg.vector_norm(tensor).isfinite())


def specials_in(tensor: Tensor) -> Tensor:
    """Returns whether each of K minibatches holds nan, infinite and huge values, (K, 3); huge ones have no square.

    Args:
        tensor: (K, ...).
    """
    if is_moderate(tensor):
        return torch.zeros(len(tensor), 3, dtype=torch.bool)
    sizes = tensor.reshape(len(tensor), -1).abs()
    huge = sizes.square().isinf() & ~sizes.isinf()
    return torch.stack([kind.any(1) for kind in (sizes.isnan(), sizes.isinf(), huge)], 1)


def is_contiguous(tensor: Tensor) -> bool:
    """Returns whether a tensor is contiguous; True if it is not strided."""
    return tensor.layout != torch.strided or tensor.is_contiguous()


def address_of(tensor: Tensor) -> int:
    """Returns the address of a tensor's storage, or 0 if it has none."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def is_dense(tensor: Tensor) -> bool:
    """Returns whether a tensor fills its memory without gaps or overlaps, with the strides of `empty_like`."""
    strides = zip(tensor.shape, tensor.stride(), torch.empty_like(tensor).stride(), strict=True)
    return tensor.numel() == 0 or all(size == 1 or one == other for size, one, other in strides)


def overlapping(tensors: Mapping[K, Tensor]) -> tuple[K, K] | None:
    """Returns the names of two tensors that overlap in memory, or None. Each tensor must be dense."""
    sized = [(tensor.data_ptr(), tensor.numel() * tensor.element_size(), name) for name, tensor in tensors.items()]
    places = sorted(((begin, begin + size, name) for begin, size, name in sized if size), key=lambda place: place[:2])
    return next(((a, b) for (_, end, a), (begin, _, b) in pairwise(places) if begin < end), None)


class Accepted:
    """Recognizes minibatches like the one that was compiled for: of its layout, and with no special values but its own.

    Compiled code may treat nan, infinite and huge values otherwise than plain PyTorch. For example, it may drop a nan
    that is multiplied by 0.
    """

    def __init__(self, tensors: Sequence[Tensor], layout: Layout) -> None:
        self._layout = layout
        self._specials = [specials_in(tensor[None]) for tensor in tensors]

    def takes(self, tensors: Sequence[Tensor], layout: Layout) -> bool:
        """Returns whether the compiled code is for this minibatch."""
        if layout != self._layout or not all(map(is_simple, tensors)):
            return False
        return self.unusual([tensor[None] for tensor in tensors]) is None

    def unusual(self, tensors: Sequence[Tensor]) -> Tensor | None:
        """Returns which of K minibatches of the layout hold other special values, (K,), or None if none does.

        Args:
            tensors: the tensors of the minibatches, each (K, ...).
        """
        others = [(specials_in(t) & ~own).any(1) for t, own in zip(tensors, self._specials, strict=True)]
        found = torch.stack(others).any(0) if others else torch.zeros(0)
        return found if bool(found.any()) else None


def rebuild(layout: Layout, tensors: Sequence[Tensor]) -> Any:
    """Returns a minibatch of this layout that holds these tensors."""
    rest = iter(tensors)
    return _replaced(layout.example, lambda _: next(rest))


def _children(value: Any) -> list[tuple[Any, Any]] | None:
    attributes = getattr(value, "__dict__", None)
    if is_dataclass(value) and not isinstance(value, type):  # all attributes, as some may be derived from its fields
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
