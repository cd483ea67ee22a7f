"""Records what compiled code does: the kernels and operators that it calls, and the memory that it passes to them.

Inductor compiles a function to C++ kernels and to a Python function that allocates memory and calls them in turn.
Shapes are fixed, so every call of that function does the same. It is called once here, with kernels that only record
their arguments. The result is a list of steps over memory with a fixed layout. C++ can run these steps without Python,
allocations or tensors.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._inductor.async_compile import AsyncCompile
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from multistep._errors import CannotFuseError
from multistep.compiled.program import ARENA, BufferView, Call

aten = torch.ops.aten
ALIGNMENT = 64  # bytes, a cache line


@dataclass(frozen=True)
class Kernel:
    """A call of a kernel: its source, the C++ types of its arguments, and the arguments."""

    source: str
    types: tuple[str, ...]
    args: tuple[BufferView, ...]


@dataclass(frozen=True)
class MatMul:
    """out = left @ right, or out = beta * bias + left @ right, with a bias for each column or each element."""

    left: BufferView
    right: BufferView
    out: BufferView
    bias: BufferView | None = None
    beta: float = 1.0


Step = Kernel | MatMul | Call


@dataclass(frozen=True)
class Recording:
    """The steps of a function, the size of their arena in bytes, and the constants that they read."""

    steps: list[Step]
    arena: int
    constants: list[Tensor]


@contextmanager
def recorded_kernels() -> Iterator[None]:
    """Makes inductor compile to kernels that only record their arguments, within the block."""

    def kernel(_: AsyncCompile, types: Sequence[str], source: str) -> Callable[..., None]:
        return lambda *args: _Recorder.active.append_kernel(source, tuple(types), args)

    original = vars(AsyncCompile)["cpp_pybinding"]
    AsyncCompile.cpp_pybinding = kernel  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        AsyncCompile.cpp_pybinding = original  # type: ignore[method-assign]


def record(
    function: Callable[[list[Tensor]], Any], inputs: Sequence[Tensor], constants: Sequence[Tensor], varying: int
) -> Recording:
    """Calls a function that inductor compiled, and records what it does.

    Args:
        function: compiled within `recorded_kernels()`; called once, with the list of inputs.
        inputs: tensors, each with its own storage.
        constants: the other tensors that the compiled code reads.
        varying: how many of the inputs, the first ones, are not constant.
    """
    recorder = _Recorder([*inputs, *constants])
    with torch.no_grad(), recorder:
        function(list(inputs))
    return Recording(*recorder.planned(), [*inputs[varying:], *constants])


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    active: "_Recorder"

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        type(self).active = self
        self._steps: list[Step] = []
        self._known = {tensor.untyped_storage().data_ptr(): i for i, tensor in enumerate(inputs)}
        self._kept: list[Tensor] = []  # held, so that no two allocations have the same address
        self._bytes: list[int] = []  # of each allocation
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    def append_kernel(self, source: str, types: tuple[str, ...], args: Sequence[Tensor]) -> None:
        places = tuple(map(self._place, args))
        if any(place.conjugated or place.negated for place in places):
            raise CannotFuseError("a kernel would read a lazily conjugated or negated tensor")
        self._steps.append(Kernel(source, types, places))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.is_view:
            return function(*args, **kwargs)
        product = self._product(function, args, kwargs)
        if product is not None:
            self._steps.append(product)
            return kwargs["out"]
        with self._fake:
            shapes = function(*args, **kwargs)
        if any(argument.alias_info is not None for argument in function._schema.arguments):
            results: Any = _written(function, args, kwargs)
            fresh = []
        else:
            results = tree_map(lambda t: _empty_like(t) if isinstance(t, Tensor) else t, shapes)
            fresh = [t for t in tree_leaves(results) if isinstance(t, Tensor)]
        place = self._places
        places = tuple(map(self._place, fresh))
        self._steps.append(Call(str(function), tuple(place(list(args))), place(kwargs), places))
        return results

    def _product(self, function: Any, args: Any, kwargs: Any) -> MatMul | None:
        """Returns the matrix product that an operator computes, if native code can compute it, else None."""
        bias = None
        if function is aten.addmm.out:
            bias, *args = args
            if kwargs.get("alpha", 1) != 1:
                return None
        elif function not in (aten.mm.out, aten.bmm.out):
            return None
        tensors = [*args, kwargs["out"]]
        if tensors[0].dtype not in (torch.float32, torch.float64) or not all(map(_is_matrix, tensors)):
            return None
        if any(tensor.is_neg() for tensor in (*tensors, *([] if bias is None else [bias]))):
            return None
        left, right, out = map(self._place, tensors)
        bias = None if bias is None else self._place(bias.expand(out.size))
        return MatMul(left, right, out, bias, float(kwargs.get("beta", 1)))

    def _place(self, tensor: Tensor) -> BufferView:
        """Returns the place of a tensor; until all steps are known, allocations are numbered downwards from ARENA."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known[storage.data_ptr()] = ARENA - len(self._kept)
            self._kept.append(tensor)
            self._bytes.append(storage.nbytes())
        offset = int(tensor.storage_offset()) * tensor.itemsize
        shape, stride = tuple(tensor.shape), tensor.stride()
        memory = self._known[storage.data_ptr()]
        return BufferView(memory, offset, tensor.dtype, shape, stride, tensor.is_conj(), tensor.is_neg())

    def _places(self, value: Any) -> Any:
        return tree_map(lambda v: self._place(v) if isinstance(v, Tensor) else v, value)

    def planned(self) -> tuple[list[Step], int]:
        """Returns the steps with every allocation placed in the arena, and the arena's size in bytes."""
        uses: dict[int, list[int]] = {}
        for number, step in enumerate(self._steps):
            for place in _places_in(step):
                if place.memory <= ARENA:
                    uses.setdefault(ARENA - place.memory, []).append(number)
        offsets: dict[int, int] = {}
        for new in sorted(uses, key=lambda i: -self._bytes[i]):  # the largest first
            lifetime = range(uses[new][0], uses[new][-1] + 1)
            beside = [i for i in offsets if uses[i][0] in lifetime or lifetime[0] in range(uses[i][0], uses[i][-1] + 1)]
            offset = 0
            for i in sorted(beside, key=offsets.__getitem__):
                if offset + self._bytes[new] <= offsets[i]:
                    break
                offset = max(offset, _aligned(offsets[i] + self._bytes[i]))
            offsets[new] = offset
        size = max((offsets[i] + self._bytes[i] for i in offsets), default=0)

        def settle(place: BufferView) -> BufferView:
            if place.memory > ARENA:
                return place
            return replace(place, memory=ARENA, offset=offsets[ARENA - place.memory] + place.offset)

        return [_with_places(step, settle) for step in self._steps], _aligned(size)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _places_in(step: Step) -> list[BufferView]:
    found: list[BufferView] = []
    _with_places(step, lambda place: found.append(place) or place)  # type: ignore[func-returns-value]
    return found


def _with_places(step: Step, change: Callable[[BufferView], BufferView]) -> Step:
    def changed(value: Any) -> Any:
        return tree_map(lambda v: change(v) if isinstance(v, BufferView) else v, value)

    if isinstance(step, Kernel):
        return Kernel(step.source, step.types, changed(step.args))
    if isinstance(step, MatMul):
        return MatMul(changed(step.left), changed(step.right), changed(step.out), changed(step.bias), step.beta)
    return Call(step.operator, changed(step.args), changed(step.kwargs), changed(step.results))


def _is_matrix(tensor: Tensor) -> bool:
    """Returns whether the rows or columns of each matrix are contiguous, as BLAS requires."""
    rows, columns = tensor.shape[-2:]
    across, along = tensor.stride()[-2:]
    return (along == 1 and across >= columns) or (across == 1 and along >= rows)


def _written(function: Any, args: Any, kwargs: Any) -> Any:
    """Returns the result of an operator that writes to its arguments: the arguments that it writes to."""
    names = [argument.name for argument in function._schema.arguments]
    values = {**dict(zip(names, args, strict=False)), **kwargs}
    mutable = [a.name for a in function._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    written = [values[name] for name in mutable]
    return written[0] if len(function._schema.returns) == 1 else tuple(written) if function._schema.returns else None


def _empty_like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
