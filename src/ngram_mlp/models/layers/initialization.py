"""Draws parameters: a distribution times a scale, from torch's default CPU generator."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from runlab import UserError

NO_BIAS = "none"
UNIFORM_BIAS = "uniform / sqrt(fan_out)"
FORM = re.compile(
    r"(?P<distribution>normal|uniform|symmetric|constant)"
    r"(?: \* (?P<factor>gain|[-+\d.eE]+)(?:/(?P<divisor>[\d.]+))?)?"
    r"(?: / sqrt\((?P<fan>fan_in|fan_out)\)| \* (?P<xavier>xavier))?"
)
FORMS = (
    "write a distribution (normal, uniform, symmetric, constant), then `* NUMBER` or `* gain`, "
    "then `/ sqrt(fan_in)`, `/ sqrt(fan_out)` or `* xavier`, as in 'normal * 5/3 / sqrt(fan_in)'"
)


@dataclass(frozen=True)
class Initializer:
    """A distribution times a factor times a scale.

    Args:
        distribution: `normal` (standard), `uniform` on [0, 1), `symmetric` (uniform on [-1, 1)), or `constant` 1, which
            draws nothing.
        factor: a number, or None for the gain of the non-linearity that follows.
        scale: `one`; `fan_in`, 1 / sqrt(fan_in) (with the tanh gain 5/3 the Kaiming initialization, arXiv:1502.01852);
            `fan_out`, 1 / sqrt(fan_out); `xavier`, sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010).
    """

    distribution: str = "normal"
    factor: float | None = 1.0
    scale: str = "one"

    @classmethod
    def parse(cls, form: str) -> "Initializer":
        """Parses a form such as `normal * 0.2` or `normal * gain / sqrt(fan_in)`; raises a ValueError for others."""
        match = FORM.fullmatch(" ".join(form.split()))
        if match is None:
            raise ValueError(FORMS)
        factor = match["factor"] or "1"
        try:
            number = None if factor == "gain" else float(factor) / float(match["divisor"] or 1)
        except (ValueError, ZeroDivisionError):
            raise ValueError(FORMS) from None
        return cls(match["distribution"], number, match["fan"] or match["xavier"] or "one")

    def draw(self, shape: tuple[int, ...], fan_in: int, fan_out: int, gain: float = 1.0) -> Tensor:
        """Returns a float32 tensor on the CPU, so that all accelerators start alike; draws even if the factor is 0."""
        scale: float = {
            "one": 1.0,
            "fan_in": fan_in**-0.5,
            "fan_out": fan_out**-0.5,
            "xavier": (2 / (fan_in + fan_out)) ** 0.5,
        }[self.scale]
        if self.distribution == "constant":
            drawn = torch.ones(shape, dtype=torch.float32, device="cpu")
        else:
            sample = torch.randn if self.distribution == "normal" else torch.rand
            drawn = sample(shape, dtype=torch.float32, device="cpu")
        if self.distribution == "symmetric":
            drawn = drawn * 2 - 1
        return drawn * ((gain if self.factor is None else self.factor) * scale)


@dataclass(frozen=True)
class Initialization:
    """How each parameter of an MLP is drawn, in forms that `Initializer.parse` reads; the defaults are notebook 002's.

    Args:
        embedding: the table of embeddings.
        hidden_weight: the weights of the hidden layers.
        hidden_bias: their biases; `none` for no bias; `auto` for none if batch norm would subtract it, else
            `uniform / sqrt(fan_out)`.
        output_weight: the weight of the output layer.
        output_bias: its bias, or `none`.
    """

    embedding: str = "normal"
    hidden_weight: str = "normal * gain / sqrt(fan_in)"
    hidden_bias: str = "auto"
    output_weight: str = "normal * xavier"
    output_bias: str = UNIFORM_BIAS

    @classmethod
    def of(cls, given: "Initialization | dict[str, Any]") -> "Initialization":
        """Returns the forms, given as such or as a dictionary, as in a checkpoint."""
        return cls(**given) if isinstance(given, dict) else given

    def __post_init__(self) -> None:
        words = {"output_bias": (NO_BIAS,), "hidden_bias": (NO_BIAS, "auto")}
        for name, form in vars(self).items():
            try:
                if form not in words.get(name, ()):
                    Initializer.parse(form)
            except ValueError as error:
                raise UserError(str(error), **{name: repr(form)}) from None


def linear(fan_in: int, fan_out: int, weight: str, bias: str, gain: float = 1.0) -> nn.Linear:
    """Returns a linear layer; draws its weight in the orientation (fan_in, fan_out), then its bias (promise 2)."""
    with torch.random.fork_rng(devices=[]):  # torch's own initialization draws too
        layer = nn.Linear(fan_in, fan_out, bias=bias != NO_BIAS)
    with torch.no_grad():
        layer.weight.copy_(Initializer.parse(weight).draw((fan_in, fan_out), fan_in, fan_out, gain).T)
        if bias != NO_BIAS:
            layer.bias.copy_(Initializer.parse(bias).draw((fan_out,), fan_in, fan_out, gain))
    return layer


def embedding(n_rows: int, n_embd: int, weight: str) -> nn.Embedding:
    """Returns an embedding table (n_rows, n_embd)."""
    return nn.Embedding(n_rows, n_embd, _weight=Initializer.parse(weight).draw((n_rows, n_embd), n_rows, n_embd))


def gain_of(module: nn.Module) -> float:
    """Returns the factor on normal / sqrt(fan_in) weights that preserves the spread of activations over depth.

    That is `torch.nn.init.calculate_gain` if it knows the module (5/3 for tanh, sqrt(2) for ReLU). Otherwise it is
    1 / sqrt(E[f(z)^2]) for a standard normal z, as for ReLU in He et al. 2015, arXiv:1502.01852.
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
