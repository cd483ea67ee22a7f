"""How parameters are drawn: distribution times scale, from torch's default CPU generator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Initializer", "embedding", "linear"]


@dataclass(frozen=True)
class Initializer:
    """A distribution times a scale times a gain.

    Args:
        distribution: `normal` (standard), `uniform` on [0, 1), or `constant` 1, which draws nothing.
        scale: `one`; `fan_in`, 1 / sqrt(fan_in) (with gain 5/3 the Kaiming initialization of a tanh layer,
            arXiv:1502.01852); `xavier`, sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010); `fan_out`,
            1 / sqrt(fan_out).
        gain: a further factor.
    """

    distribution: Literal["normal", "uniform", "constant"] = "normal"
    scale: Literal["one", "fan_in", "xavier", "fan_out"] = "one"
    gain: float = 1.0

    def draw(self, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
        """A float32 tensor on the CPU, whatever the default dtype and device, so that every accelerator starts alike.

        A distribution is drawn even where the gain is 0, as in the notebooks (contract 2).
        """
        scale: float = {
            "one": 1.0,
            "fan_in": fan_in**-0.5,
            "xavier": (2 / (fan_in + fan_out)) ** 0.5,
            "fan_out": fan_out**-0.5,
        }[self.scale]
        sample: Callable[..., Tensor] = {"normal": torch.randn, "uniform": torch.rand, "constant": torch.ones}[
            self.distribution
        ]
        drawn = sample(shape, dtype=torch.float32, device="cpu")
        return drawn * (self.gain * scale)


def linear(fan_in: int, fan_out: int, weight: Initializer, bias: Initializer | None) -> nn.Linear:
    """A linear layer whose weight is drawn in the orientation (fan_in, fan_out), then its bias (contract 2)."""
    with torch.device("meta"):  # torch's own initialization draws nothing there
        layer = nn.Linear(fan_in, fan_out, bias=bias is not None)
    layer.to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.copy_(weight.draw((fan_in, fan_out), fan_in, fan_out).T)
        if bias is not None:
            layer.bias.copy_(bias.draw((fan_out,), fan_in, fan_out))
    return layer


def embedding(n_rows: int, n_embd: int, weight: Initializer) -> nn.Embedding:
    """An embedding table of shape (n_rows, n_embd)."""
    return nn.Embedding(n_rows, n_embd, _weight=weight.draw((n_rows, n_embd), n_rows, n_embd))
