"""Which normalization stands between a linear layer and its non-linearity."""

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import nn

from ngram_mlp.errors import UserError
from ngram_mlp.models.layers.batch_norm import BatchNorm


class Norm(Protocol):
    """What an MLP asks of a normalization. To add one of your own, write a dataclass like those below."""

    @property
    def subtracts_bias(self) -> bool:
        """Whether it removes a bias of the linear layer before it."""

    def hidden(self, n_features: int) -> nn.Module | None:
        """The layer for the `n_features` units of a hidden layer, None for none."""

    def logits(self, n_features: int) -> nn.Module | None:
        """The layer for the `n_features` logits, None for none."""


@dataclass(frozen=True)
class Normalization:
    """Normalization within each example, which needs no running statistics.

    Args:
        kind: `none`; `layer` (arXiv:1607.06450) over the units of an example; `group` (arXiv:1803.08494) over groups of
            them.
        eps: what keeps the division finite.
        gain: the initial gain of the hidden layers.
        groups: of `group`: the number of groups, a divisor of the number of units.
        on_logits: whether the output layer is normalized, too.
        logits_gain: the initial gain there.

    Raises:
        UserError: an unknown kind, or a value out of its range.
    """

    kind: str = "none"
    eps: float = 1e-5
    gain: float = 1.0
    groups: int = 10
    on_logits: bool = False
    logits_gain: float = 1.0

    def __post_init__(self) -> None:
        if self.kind in ("batch", "BatchNorm1d"):
            raise UserError("batch norm is the model BatchNormMLP; choose none, layer or group here", kind=self.kind)
        if self.kind == "instance":
            raise UserError(
                "normalizes over the positions of a channel, and a vector of units has only one, which would become 0; "
                "choose layer or group",
                kind=self.kind,
            )
        if self.kind not in ("none", "layer", "group"):
            raise UserError("choose one of none, layer, group", kind=self.kind)
        if self.on_logits and self.kind == "none":
            raise UserError("needs a kind of normalization, layer or group", on_logits=True)
        _check_eps(self.eps)

    @property
    def subtracts_bias(self) -> bool:
        """No: a bias shifts units against each other."""
        return False

    def hidden(self, n_features: int) -> nn.Module | None:
        """The layer for hidden units, None for none.

        Raises:
            UserError: the groups do not divide the units.
        """
        return None if self.kind == "none" else self._layer(n_features, self.gain)

    def logits(self, n_features: int) -> nn.Module | None:
        """The layer for the logits, None for none."""
        return self._layer(n_features, self.logits_gain) if self.on_logits else None

    def _layer(self, n_features: int, gain: float) -> nn.Module:
        layer: nn.LayerNorm | nn.GroupNorm
        if self.kind == "layer":
            layer = nn.LayerNorm(n_features, self.eps)
        else:
            if self.groups < 1 or n_features % self.groups:
                raise UserError(f"give a divisor of the {n_features} units", groups=self.groups)
            layer = nn.GroupNorm(self.groups, n_features, self.eps)
        nn.init.constant_(layer.weight, gain)
        return layer


@dataclass(frozen=True)
class BatchNormalization:
    """Normalization of each unit over the minibatch.

    Args:
        kind: `batch`, written by hand, or `BatchNorm1d`, torch's own.
        statistic: of `batch`: `std`, (x - mean) / (std + eps) as in the notebooks, or `var`, (x - mean) /
            sqrt(var + eps) as in the paper and in torch.
        unbiased: of `batch`: whether a minibatch is normalized by the unbiased estimate, as in the notebooks, or by
            the biased one, as in torch.
        momentum: the weight of a minibatch in the running statistics.
        eps: what keeps the division finite.
        gain: the initial gain of the hidden layers.
        on_logits: whether the output layer is normalized, too.
        logits_gain: the initial gain there.

    Raises:
        UserError: an unknown kind, or a value out of its range.
    """

    kind: str = "batch"
    statistic: Literal["std", "var"] = "std"
    unbiased: bool = True
    momentum: float = 0.001
    eps: float = 1e-5
    gain: float = 1.0
    on_logits: bool = False
    logits_gain: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("batch", "BatchNorm1d"):
            raise UserError("choose batch or BatchNorm1d; the model MLP has none, layer and group", kind=self.kind)
        if not 0 <= self.momentum <= 1:
            raise UserError("give a weight from 0 to 1, such as 0.001", momentum=self.momentum)
        _check_eps(self.eps)

    @property
    def subtracts_bias(self) -> bool:
        """Yes, with the mean of each unit."""
        return True

    def hidden(self, n_features: int) -> nn.Module:
        """The layer for hidden units."""
        return self._layer(n_features, self.gain)

    def logits(self, n_features: int) -> nn.Module | None:
        """The layer for the logits, None for none."""
        return self._layer(n_features, self.logits_gain) if self.on_logits else None

    def _layer(self, n_features: int, gain: float) -> nn.Module:
        if self.kind == "batch":
            return BatchNorm(n_features, self.momentum, self.eps, self.statistic, self.unbiased, gain)
        layer = nn.BatchNorm1d(n_features, self.eps, self.momentum)
        nn.init.constant_(layer.weight, gain)
        return layer


def _check_eps(eps: float) -> None:
    if not 0 <= eps < float("inf"):
        raise UserError("give a small number, 0 or more, such as 1e-5", eps=eps)
