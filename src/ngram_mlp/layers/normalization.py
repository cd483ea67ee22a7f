"""Which normalization follows a linear layer."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from ngram_mlp.errors import UserError
from ngram_mlp.layers.batch_norm import BatchNorm

__all__ = ["Normalization"]

KINDS = ("none", "batch", "BatchNorm1d", "layer", "group")


@dataclass(frozen=True)
class Normalization:
    """The normalization between a linear layer and its non-linearity.

    Args:
        kind: `none`; `batch`, written by hand; `BatchNorm1d`, torch's own; `layer` (arXiv:1607.06450) over the units
            of an example; `group` (arXiv:1803.08494) over groups of them.
        statistic: of `batch`: `std`, (x - mean) / (std + eps) as in the notebooks, or `var`, (x - mean) /
            sqrt(var + eps) as in the paper and in torch.
        unbiased: of `batch`: whether a minibatch is normalized by the unbiased estimate, as in the notebooks, or by
            the biased one, as in torch.
        momentum: of both batch norms: the weight of a minibatch in the running statistics.
        eps: what keeps the division finite.
        gain: the initial gain of the hidden layers.
        groups: of `group`: the number of groups, a divisor of the number of units.
        on_logits: whether the output layer is normalized, too.
        logits_gain: the initial gain there.

    Raises:
        UserError: an unknown kind, or a value out of its range.
    """

    kind: str = "none"
    statistic: Literal["std", "var"] = "std"
    unbiased: bool = True
    momentum: float = 0.001
    eps: float = 1e-5
    gain: float = 1.0
    groups: int = 10
    on_logits: bool = False
    logits_gain: float = 1.0

    def __post_init__(self) -> None:
        if self.kind == "instance":
            raise UserError(
                "--model.norm.kind instance: normalizes over the positions of a channel, and a vector of units has "
                "only one, which would become 0; choose layer or group"
            )
        if self.kind not in KINDS:
            raise UserError(f"--model.norm.kind {self.kind}: choose one of {', '.join(KINDS)}")
        if self.on_logits and self.kind == "none":
            raise UserError("--model.norm.on_logits true: needs a --model.norm.kind, such as batch")
        if not 0 <= self.momentum <= 1:
            raise UserError(f"--model.norm.momentum {self.momentum}: give a weight from 0 to 1, such as 0.001")
        if not 0 <= self.eps < float("inf"):
            raise UserError(f"--model.norm.eps {self.eps}: give a small number, 0 or more, such as 1e-5")

    @property
    def subtracts_bias(self) -> bool:
        """Whether a bias before it has no effect."""
        return self.kind in ("batch", "BatchNorm1d")

    def layer(self, n_features: int, gain: float) -> nn.Module:
        """The layer for `n_features` units, with this initial gain.

        Raises:
            UserError: the groups do not divide the units.
        """
        if self.kind == "batch":
            return BatchNorm(n_features, self.momentum, self.eps, self.statistic, self.unbiased, gain)
        layer: nn.BatchNorm1d | nn.LayerNorm | nn.GroupNorm
        if self.kind == "BatchNorm1d":
            layer = nn.BatchNorm1d(n_features, self.eps, self.momentum)
        elif self.kind == "layer":
            layer = nn.LayerNorm(n_features, self.eps)
        else:
            if self.groups < 1 or n_features % self.groups:
                raise UserError(f"--model.norm.groups {self.groups}: give a divisor of the {n_features} units")
            layer = nn.GroupNorm(self.groups, n_features, self.eps)
        nn.init.constant_(layer.weight, gain)
        return layer
