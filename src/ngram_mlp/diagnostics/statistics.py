"""Computes statistics of activations, gradients and parameters, as pure functions of tensors."""

import math
from collections.abc import Iterable
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn.modules import activation

SATURATION = 0.97
BINS = 60
ROWS = 32  # examples of a mask that are kept


def is_nonlinearity(module: nn.Module) -> bool:
    """Returns whether a module is one of torch.nn's non-linearities that work unit by unit."""
    names = set(activation.__all__) - {"MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU"}
    return type(module).__name__ in names and type(module).__module__ == activation.__name__


def mean_and_std(x: Tensor) -> tuple[float, float]:
    """Returns mean and unbiased std over all elements; the std of a single element is 0."""
    std, mean = torch.std_mean(x.float(), correction=min(1, x.numel() - 1))
    return mean.item(), std.item()


@torch.enable_grad()
def saturated(nonlinearity: nn.Module, x: Tensor, threshold: float = SATURATION) -> Tensor:
    """Returns where a non-linearity f is so flat at its input x that hardly any gradient passes: bool, shape of x.

    That is where abs(f'(x)) < 1 - threshold^2. For tanh, whose derivative is 1 - tanh^2, that is where abs(tanh(x)) is
    above the threshold, as in notebook 004.
    """
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(nonlinearity(x.clone()).sum(), x)  # a clone, since it may work in place
    return slope.abs() < 1 - threshold**2


def baseline_saturation(nonlinearity: nn.Module, threshold: float = SATURATION) -> float:
    """Returns the saturated fraction for a standard normal input: 4 % for tanh, half for ReLU."""
    z = torch.linspace(-5, 5, 4_001)
    parameter = next(nonlinearity.parameters(), z)
    density = torch.exp(-(z**2) / 2)
    flat = saturated(nonlinearity, z.to(parameter.device, parameter.dtype), threshold).cpu()
    return ((flat * density).sum() / density.sum()).item()


def dead(flat: Tensor) -> Tensor:
    """Returns which units are saturated for every example of a minibatch: (B, ..., n) -> (n,), bool."""
    return flat.reshape(-1, flat.shape[-1]).all(dim=0)


def log10_ratio(change: Tensor, value: Tensor) -> float:
    """Returns log10(std(change) / std(value)): -inf if nothing changes; inf or nan if the value is constant.

    For an update and its parameter, it is the notebooks' update:data ratio, about -3 in healthy training.
    """
    numerator, denominator = mean_and_std(change)[1], mean_and_std(value)[1]
    if denominator == 0:
        return math.nan if numerator == 0 else math.inf
    return math.log10(numerator / denominator) if numerator else -math.inf


def log10_of_norms(changes: Iterable[Tensor], values: Iterable[Tensor]) -> float:
    """Returns log10(norm(changes) / norm(values)), each over all tensors together: -inf if nothing changes."""
    change, value = (math.sqrt(sum(float(x.square().sum()) for x in xs)) for xs in (changes, values))
    if not change or not value:
        return -math.inf if value else math.inf
    return math.log10(change / value)


class Density(TypedDict):
    """The distribution of a tensor's finite values: densities, and the edges between them."""

    edges: Tensor
    values: Tensor
    std: float


class Cells(TypedDict):
    """The first rows of a mask (examples, units), and totals over all of it."""

    rows: Tensor
    share: float  # the fraction of cells that are true
    dead: int  # units whose cells are all true


def density(x: Tensor, bins: int = BINS) -> Density:
    """Returns the density of a tensor's finite values in this many bins, or no values if none are finite."""
    x = x.detach().double().cpu().flatten()  # float32 does not resolve the bins if all values are much alike
    x = x[x.isfinite()]
    if not len(x):
        return {"edges": x, "values": x, "std": float("nan")}
    margin = 1e-6 * (float(x.abs().max()) or 1.0)  # in case all are equal
    values, edges = x.histogram(bins, range=(float(x.min()) - margin, float(x.max()) + margin), density=True)
    return {"edges": edges.float(), "values": values.float(), "std": x.std(correction=0).item()}


def cells(mask: Tensor) -> Cells:
    """Returns the Cells of a mask (B, ..., n); each row of units counts as an example."""
    mask = mask.reshape(-1, mask.shape[-1]).cpu()
    share = mask.float().mean().item()
    return {"rows": mask[:ROWS].clone(), "share": share, "dead": int(mask.all(0).sum())}
