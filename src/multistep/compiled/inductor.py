"""Compiles an update: traces it to a graph, has inductor write its kernels and `codegen` its loop, and builds both."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
from torch import Tensor
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.exc import CppCompileError
from torch._inductor.fx_passes import joint_graph, post_grad
from torch._inductor.pattern_matcher import ReplacementPatternEntry
from torch._inductor.scheduler import SchedulerNode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from multistep._errors import CannotFuseError
from multistep.compiled.codegen import build, scratch_for, source_of
from multistep.compiled.graph import check_indices, lifted_constants, read_before_written
from multistep.compiled.program import Call, Plan
from multistep.compiled.recorder import Recording, record, recorded_kernels

OPTIONS: dict[str, Any] = {
    # One instruction that multiplies and adds would leave a rounding error where a * b - c * d is 0 in plain PyTorch.
    "cpp.enable_floating_point_contract_flag": "off",
    "realize_opcount_threshold": 4,  # computes a unit's values (batch norm's divisions and roots) once, not per example
    "fallback_random": True,  # see `_record`
    "fx_graph_cache": False,  # it would cache code that records nothing
    "graph_partition": False,
}
# Skips a test in which torch's compiler builds a program for each of the processor's instruction sets, in 6 s.
TRUSTING: dict[str, Any] = {"cpp.vec_isa_ok": True}

# What torch raises if a number is read from a tensor while tracing.
DEPENDS_ON_VALUES = {"GuardOnDataDependentSymNode", "DataDependentOutputException", "DynamicOutputShapeException"}
# Their decompositions, no faster, do not check that values are between 0 and 1.
CHECKED_BY_TORCH = (torch.ops.aten.binary_cross_entropy.default, torch.ops.aten.binary_cross_entropy_backward.default)
MOST_OPERATIONS = 3_000  # in an update; compiling so many takes about a minute

# Rational approximation of tanh (Eigen's and XLA's coefficients): odd powers over even ones, highest first. It does not
# reach 1. In float32, tanh is 1 from about 9 on, and within 2 units in the last place from `TANH_IS_ONE` on.
TANH_LIMIT, TANH_IS_ONE = 7.90531110763549805, 8.6
TANH_NUMERATOR = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
TANH_DENOMINATOR = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)


def fast_tanh(x: Tensor) -> Tensor:
    """Returns tanh(x) to 3 units in the last place of float32; torch's, accurate to 1, slows an update by a seventh."""
    if x.dtype != torch.float32:
        return NotImplemented  # type: ignore[no-any-return]  # the compiler then uses torch's own
    inner = x.clamp(-TANH_LIMIT, TANH_LIMIT)
    square = inner * inner
    value = inner * _polynomial(TANH_NUMERATOR, square) / _polynomial(TANH_DENOMINATOR, square)
    return torch.where(x.abs() > TANH_IS_ONE, x.sign(), value)


def remainder(x: Any, y: Any) -> Any:
    """Returns the remainder with the sign of y; inductor's x - floor(x / y) * y may reach y if x is large."""
    if not torch.result_type(x, y).is_floating_point:
        return NotImplemented
    x, y = _as_floats(x, y)
    value = torch.fmod(x, y)
    return torch.where((value != 0) & ((value < 0) != (y < 0)), value + y, value)


def divide(x: Any, y: Any, *, rounding_mode: str | None) -> Any:
    """Returns the quotient rounded down as torch does, so that 1.0 // 0.1 is 9; inductor's floor(x / y) is 10."""
    if rounding_mode != "floor" or not torch.result_type(x, y).is_floating_point:
        return NotImplemented
    x, y = _as_floats(x, y)
    rest, plain = torch.fmod(x, y), x / y
    quotient = (x - rest) / y
    quotient = torch.where((rest != 0) & ((rest < 0) != (y < 0)), quotient - 1, quotient)
    floor = torch.floor(quotient)
    floor = torch.where(quotient - floor > 0.5, floor + 1, floor)
    floor = torch.where(quotient == 0, torch.copysign(torch.zeros_like(plain), plain), floor)
    return torch.where(y == 0, plain, floor)


def _as_floats(*values: Any) -> list[Tensor]:
    kind = torch.result_type(*values)
    return [each.to(kind) if isinstance(each, Tensor) else torch.tensor(each, dtype=kind) for each in values]


def add_product(x: Tensor, y: Any, *, alpha: Any = 1) -> Tensor:
    """Returns x + alpha * y; inductor drops `alpha` when it fuses a product and a sum to one matrix product."""
    return NotImplemented if alpha == 1 else x + y * alpha


def subtract_product(x: Tensor, y: Any, *, alpha: Any = 1) -> Tensor:
    """Returns x - alpha * y, for the same reason."""
    return NotImplemented if alpha == 1 else x - y * alpha


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    first, second, *rest = coefficients
    value = first * x + second
    for coefficient in rest:
        value = value * x + coefficient
    return value


def compile_update(
    update: Callable[..., None],
    state: Sequence[Tensor],
    minibatches: Sequence[Tensor],
    folder: Path,
    say: Callable[[str], None],
) -> tuple[Path, Plan]:
    """Compiles an update for tensors of these shapes.

    Args:
        update: called with two lists of tensors, `state` and one minibatch; writes to them in place.
        state: the tensors kept from one minibatch to the next: parameters, buffers, optimizer state.
        minibatches: tensors whose first dimension counts minibatches.
        say: prints a line for the user.

    Returns:
        The library and its plan, which make a `Program`.

    Raises:
        CannotFuseError: the update cannot be compiled here.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from the compiled code, or from the compiler
            with suppress(CppCompileError):  # the compiler may be too old for the processor
                return _compile(update, state, minibatches, folder, say, OPTIONS | TRUSTING)
            return _compile(update, state, minibatches, folder, say, OPTIONS)
    except CannotFuseError:
        raise
    except Exception as error:  # the compiler's exceptions are of many kinds
        if type(error).__name__ in DEPENDS_ON_VALUES:
            raise CannotFuseError("training_step, or the optimizer, branches on tensor values") from error
        lines = str(error).strip().splitlines()
        reason = next((line for line in lines if "error:" in line), lines[0] if lines else "")
        raise CannotFuseError(f"it cannot be compiled here ({type(error).__name__}: {reason[:160]})") from error


def _compile(
    update: Callable[..., None],
    state: Sequence[Tensor],
    minibatches: Sequence[Tensor],
    folder: Path,
    say: Callable[[str], None],
    options: dict[str, Any],
) -> tuple[Path, Plan]:
    # Each has its own storage, so that an address identifies its tensor.
    inputs = [torch.empty_like(tensor) for tensor in (*state, *(tensor[0] for tensor in minibatches))]
    with torch.random.fork_rng(devices=[]), torch._inductor.config.patch(options):  # the compiler draws, too
        recording = _record(lambda *all: update(list(all[: len(state)]), list(all[len(state) :])), inputs)
        advance = [0] * len(state) + [tensor[0].numel() * tensor.itemsize for tensor in minibatches]
        advance += [0] * len(recording.constants)
        calls = tuple(step for step in recording.steps if isinstance(step, Call))
        scratch = max(map(scratch_for, recording.steps), default=0)
        plan = Plan(recording.arena + scratch, tuple(advance), tuple(recording.constants), calls)
        return build(source_of(recording, plan), folder, say), plan


def _record(update: Callable[..., None], inputs: list[Tensor]) -> Recording:
    """Compiles a function of tensors, and records what the code does; its constants become its last inputs."""
    compiled: Any = None
    count = len(inputs)

    def note(graph: Any, examples: Any, **options: Any) -> Any:
        nonlocal compiled
        read_before_written(graph)
        compiled = compile_fx_inner(graph, examples, **options)
        return compiled

    def returning_nothing(*tensors: Tensor) -> tuple[()]:
        update(*tensors)
        return ()

    table = _decompositions()
    with torch.no_grad(), recorded_kernels(), _mended():
        enabled = torch._C._get_mkldnn_enabled()
        torch._C._set_mkldnn_enabled(False)  # its recurrent layers keep memory of unknown size
        try:
            with _Checked():
                graph = make_fx(returning_nothing, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
        finally:
            torch._C._set_mkldnn_enabled(enabled)
        if len(graph.graph.nodes) > MOST_OPERATIONS:
            raise CannotFuseError(f"an update of {len(graph.graph.nodes):,} operations would take minutes to compile")
        check_indices(graph)
        inputs = inputs + lifted_constants(graph)
        compile_fx(graph, inputs, inner_compile=note, decompositions=table)
        return record(compiled.current_callable, inputs, list((compiled.constants or {}).values()), count)


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Returns the formulas of operators that the compiler writes kernels for: torch's own, except some."""
    # Operators that draw random numbers are called unchanged, so that they draw the same as without compiling.
    random = torch.Tag.nondeterministic_seeded
    table = {op: formula for op, formula in select_decomp_table().items() if random not in getattr(op, "tags", ())}
    for op in CHECKED_BY_TORCH:
        table.pop(op, None)
    table[torch.ops.aten.tanh.default] = fast_tanh
    table[torch.ops.aten.bernoulli.p] = lambda like, p, generator=None: torch.ops.multistep.bernoulli(like, p)
    for overload in ("Tensor", "Scalar", "Scalar_Tensor"):
        table[getattr(torch.ops.aten.remainder, overload)] = remainder
    for op in (torch.ops.aten.div.Tensor_mode, torch.ops.aten.div.Scalar_mode):
        table[op] = divide
    for op in (torch.ops.aten.floor_divide.default, torch.ops.aten.floor_divide.Scalar):
        table[op] = partial(torch.div, rounding_mode="floor")
    table[torch.ops.aten.add.Tensor] = add_product
    table[torch.ops.aten.sub.Tensor] = subtract_product
    return table


@contextmanager
def _mended() -> Iterator[None]:
    """Works around two problems of torch 2.13's compiler.

    A scheduler that changes a node's loops forgets that a buffer read by the node has been renamed. The node may then
    read the buffer too early, for example zeros instead of scattered values. The search for attention patterns, which
    no update has, takes 0.3 s and fails for an update that reads `x[torch.randperm(n)]`; it is skipped.
    """
    original = SchedulerNode.recompute_size_and_body, joint_graph.lazy_init

    def recompute(self: SchedulerNode, *args: Any, **kwargs: Any) -> None:
        original[0](self, *args, **kwargs)
        self.set_read_writes(self.read_writes.rename(self.mutation_renames))

    SchedulerNode.recompute_size_and_body = recompute  # type: ignore[method-assign]
    joint_graph.lazy_init = lambda *_: None
    # An earlier compilation by others may have registered them.
    lists = [
        found for each in (*joint_graph.pass_patterns, *post_grad.pass_patterns) for found in each.patterns.values()
    ]
    before = [(found, [*found]) for found in lists if any(map(_is_left_out, found))]
    for found, entries in before:
        found[:] = [entry for entry in entries if not _is_left_out(entry)]
    try:
        yield
    finally:
        SchedulerNode.recompute_size_and_body, joint_graph.lazy_init = original  # type: ignore[method-assign]
        for found, entries in before:
            found[:] = entries


def _is_left_out(entry: Any) -> bool:
    """Returns whether a pattern is one that `joint_graph.lazy_init` registers; others are those of `post_grad`."""
    if not isinstance(entry, ReplacementPatternEntry):
        return False
    used = [cell.cell_contents for cell in getattr(entry.extra_check, "__closure__", None) or ()]
    return not any(getattr(each, "__module__", None) == post_grad.__name__ for each in used)


class _Checked(TorchFunctionMode):
    """Checks the classes that become one-hot vectors, which torch does not do while tracing.

    Raises a CannotFuseError at a cast to 16 bits outside of autocast: compiled code may leave out its rounding.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.one_hot:
            classes, number = (lambda tensor, num_classes=-1: (tensor, num_classes))(*args, **kwargs)
            if number > 0:
                return func(torch.ops.multistep.within(classes, number), number)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and _is_low(result) and not torch.is_autocast_enabled("cpu"):
            given = [value for value in tree_leaves([args, kwargs]) if isinstance(value, Tensor)]
            if any(value.is_floating_point() and not _is_low(value) for value in given):
                raise CannotFuseError("compiled code may leave out a rounding to 16 bits")
        return result


def _is_low(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.itemsize < 4
