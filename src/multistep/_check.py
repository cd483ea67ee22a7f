"""Compares all tensors and outputs of compiled updates with those of plain PyTorch, to rounding."""

from collections.abc import Mapping

import torch
from torch import Tensor

# How much a tensor's change, or an output, may differ relative to its norm: in float32, and in lower precision.
TOLERANCE, LOW_TOLERANCE = 1e-3, 5e-2
# Allowed rounding of the tensor itself, in units in the last place.
UNITS = 32
LOW_UNIT = torch.finfo(torch.bfloat16).eps
# Rounding explains at most this many times the effect of rounding-sized changes of parameters in plain PyTorch.
AMPLIFIED = 10.0


def differences(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], before: Mapping[str, Tensor], low: bool
) -> dict[str, tuple[float, float]]:
    """Returns the tensors that differ beyond rounding, by name: the norm of the difference, and the allowed norm.

    Args:
        found: the tensors after compiled updates.
        expected: the tensors after the same updates by plain PyTorch.
        before: the tensors before the updates; any other tensor is an output, which is compared as a whole.
        low: whether anything is computed in less than float32.
    """
    wrong = {}
    for name, value in expected.items():
        other = found[name]
        if not (value.is_floating_point() or value.is_complex()):
            if not torch.equal(other, value):
                wrong[name] = (float("inf"), 0.0)
            continue
        one, two = _numbers(other), _numbers(value)
        changed = two - _numbers(before[name]) if name in before else two
        tolerance = LOW_TOLERANCE if low else TOLERANCE
        allowed = tolerance * _norm(changed) + UNITS * torch.finfo(value.dtype).eps * _norm(two)
        if not torch.equal(one.isfinite(), two.isfinite()):
            wrong[name] = (float("inf"), allowed)
        elif (error := _norm(one - two)) > allowed:
            wrong[name] = (error, allowed)
    return wrong


def beyond_rounding(
    wrong: Mapping[str, tuple[float, float]], expected: Mapping[str, Tensor], perturbed: Mapping[str, Tensor]
) -> dict[str, tuple[float, float]]:
    """Returns the differences that rounding does not explain.

    Args:
        wrong: the result of `differences`.
        expected: the tensors after updates by plain PyTorch.
        perturbed: the same after parameters were perturbed by rounding, with the perturbation subtracted.
    """
    return {
        name: (error, allowed)
        for name, (error, allowed) in wrong.items()
        if not expected[name].is_floating_point()
        or error > allowed + AMPLIFIED * _norm(_numbers(perturbed[name]) - _numbers(expected[name]))
    }


def perturb(tensors: Mapping[str, Tensor], low: bool, seed: int) -> dict[str, Tensor]:
    """Changes floating-point tensors in place by about 4 units in the last place, or by one of bfloat16 if `low`.

    Returns the changes by name, in float64.
    """
    generator = torch.Generator().manual_seed(seed)
    shifts = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            before = tensor.double()
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor)
            unit = LOW_UNIT if low or tensor.dtype.itemsize == 2 else 4 * torch.finfo(tensor.dtype).eps
            tensor.mul_(1 + unit * noise)
            shifts[name] = tensor.double() - before
    return shifts


def are_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Returns whether tensors agree by name, each to a thousandth of its norm plus a millionth of the largest norm."""
    if found.keys() != expected.keys():
        return False
    dense = {name: (_numbers(found[name].to_dense()), _numbers(value.to_dense())) for name, value in expected.items()}
    most = max((_norm(value) for _, value in dense.values()), default=0.0)
    return all(
        one.shape == other.shape
        and torch.equal(one.isfinite(), other.isfinite())
        and _norm(one - other) <= TOLERANCE * _norm(other) + 1e-6 * most
        for one, other in dense.values()
    )


def _numbers(tensor: Tensor) -> Tensor:
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double()


def _norm(tensor: Tensor) -> float:
    """Returns the norm of the finite values."""
    return float(tensor.nan_to_num(0.0, 0.0, 0.0).norm())
