"""Non-linearities of torch.nn by name, and their gains."""

import re
import warnings

import torch
from torch import nn
from torch.nn.modules import activation as torch_activations

from ngram_mlp.errors import UserError


def activation(name: str) -> nn.Module:
    """The non-linearity `torch.nn.NAME` with its default arguments.

    Raises:
        UserError: there is none of this name, or it does not map each unit to one value.
    """
    error = UserError(
        "is no non-linearity of torch.nn that works unit by unit; try Tanh, ReLU or GELU", activation=name
    )
    if name not in torch_activations.__all__:
        raise error
    try:
        module: nn.Module = getattr(torch_activations, name)()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Softmax warns before it is refused
            probe, alone = module(torch.zeros(2, 4)), module(torch.zeros(2, 1))
    except (TypeError, ValueError, RuntimeError):
        raise error from None
    if not (isinstance(probe, torch.Tensor) and probe.shape == (2, 4) and probe[0, 0] == alone[0, 0]):
        raise error
    return module


def gain_of(module: nn.Module) -> float:
    """What a normal weight over sqrt(fan_in) is multiplied by so that the spread of activations persists over depth.

    The recommended values of `torch.nn.init.calculate_gain` where it has one (5/3 for tanh, sqrt(2) for ReLU); else
    1 / sqrt(E[f(z)^2]) for a standard normal z, from which these values come (He et al. 2015, arXiv:1502.01852).
    """
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(module).__name__).lower().replace("re_lu", "relu")
    try:
        return nn.init.calculate_gain(name)  # type: ignore[arg-type]
    except ValueError:
        z = torch.linspace(-8, 8, 16_001, dtype=torch.float64)
        density = torch.exp(-(z**2) / 2)
        with torch.no_grad():
            values = module.double()(z[:, None])[:, 0]
        module.float()
        return float(((values**2 * density).sum() / density.sum()) ** -0.5)
