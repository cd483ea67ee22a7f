"""Compiling a training loop with torch.compile: the settings that were measured to pay off, and why they do."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch._inductor.compile_fx import compile_fx
from torch._inductor.decomposition import select_decomp_table

from ngram_mlp.training.optimizers import CannotFuseError

OPTIONS: dict[str, Any] = {
    "cpp_wrapper": True,  # the whole loop in C++: Python is called once a chunk
    # Multiplies and adds in one instruction, which rounds once and so more accurately.
    "cpp.enable_floating_point_contract_flag": "fast",
    # Values of a unit (batch norm's divisions and roots) are computed once, not again for each example.
    "realize_opcount_threshold": 4,
    "cpp_cache_precompile_headers": False,  # costs more than it saves for the one file that is compiled
}
# The compiler tests each instruction set that the processor reports by building a program, which takes 6 s.
TRUSTING: dict[str, Any] = {"cpp.vec_isa_ok": True}

# Rational approximation of tanh (Eigen's and XLA's coefficients), of odd and even powers, highest first.
TANH_LIMIT = 7.90531110763549805
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
    """tanh(x) in float32 to 3 units in the last place; torch's, accurate to 1, makes an update a seventh slower."""
    if x.dtype != torch.float32:
        return NotImplemented  # type: ignore[no-any-return]  # the compiler then takes torch's own
    x = x.clamp(-TANH_LIMIT, TANH_LIMIT)
    square = x * x
    return x * _polynomial(TANH_NUMERATOR, square) / _polynomial(TANH_DENOMINATOR, square)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    first, second, *rest = coefficients
    value = first * x + second
    for coefficient in rest:
        value = value * x + coefficient
    return value


def compile_loop(loop: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """`loop`, compiled by a call with these arguments for their shapes; raises a CannotFuseError where that fails."""
    try:
        with suppress(torch._inductor.exc.CppCompileError):  # an old compiler, perhaps, for a new processor
            return _compile(loop, arguments, OPTIONS | TRUSTING)
        return _compile(loop, arguments, OPTIONS)
    except Exception as error:  # the compiler's exceptions are of many kinds
        reason = next(iter(str(error).strip().splitlines()), "")
        raise CannotFuseError(f"the network cannot be compiled here ({type(error).__name__}: {reason})") from error


def _compile(loop: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Callable[..., Any]:
    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        table = {**select_decomp_table(), torch.ops.aten.tanh.default: fast_tanh}
        return compile_fx(graph, inputs, config_patches=options, decompositions=table)

    compiled: Callable[..., Any] = torch.compile(loop, fullgraph=True, dynamic=False, backend=backend)
    # Several engines in a process share the code of `loop`, and each of them is compiled.
    limits = torch._dynamo.config.patch(recompile_limit=1_000, accumulated_recompile_limit=1_000)
    with limits, torch.random.fork_rng(devices=[]):  # the compiler draws random numbers, too
        compiled(*arguments)
    return compiled
