"""Defines the normalizations between a linear layer and its non-linearity.

To add one that works within each example, add a kind to `Normalization.kinds` and its layer to `Normalization.layer`.
For another sort, add a subclass of `Norm` and a model that takes it, as `BatchNormMLP` takes `BatchNormalization`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from torch import nn

from ngram_mlp.models.layers.batch_norm import BatchNorm, UnitsLastBatchNorm1d
from runlab import UserError

N = TypeVar("N", bound="Norm")


@dataclass(frozen=True)
class Norm:
    """The interface of a normalization for an MLP; raises a UserError for an unknown kind or a value out of range.

    `hidden` and `logits` return the layer for a number of units or logits, or None.
    """

    kind: str
    eps: float = 1e-5
    gain: float = 1.0
    on_logits: bool = False
    logits_gain: float = 1.0

    kinds: ClassVar[tuple[str, ...]] = ()
    subtracts_bias: ClassVar[bool] = False  # whether it cancels the bias of the linear layer before it

    def __post_init__(self) -> None:
        if self.kind not in self.kinds:
            raise UserError(f"choose one of {', '.join(self.kinds)}", kind=self.kind)
        if self.on_logits and self.kind == "none":
            raise UserError("needs a kind of normalization", on_logits=True)
        if not 0 <= self.eps < float("inf"):
            raise UserError("give a small number, 0 or more, such as 1e-5", eps=self.eps)

    @classmethod
    def of(cls: type[N], given: N | dict[str, Any] | str) -> N:
        """Returns the options, given as such, as a dictionary (as in a checkpoint), or as a kind alone."""
        given = {"kind": given} if isinstance(given, str) else given
        return cls(**given) if isinstance(given, dict) else given

    def hidden(self, n_features: int) -> nn.Module | None:
        return None if self.kind == "none" else self.layer(n_features, self.gain)

    def logits(self, n_features: int) -> nn.Module | None:
        return self.layer(n_features, self.logits_gain) if self.on_logits else None

    def layer(self, n_features: int, gain: float) -> nn.Module:
        """Returns the layer for `n_features` units with this initial gain."""
        raise NotImplementedError


@dataclass(frozen=True)
class Normalization(Norm):
    """Normalizes within each example, without running statistics.

    Args:
        kind: `none`; `layer` (arXiv:1607.06450) over the units of an example; `group` (arXiv:1803.08494) over groups of
            them.
        eps: keeps the division finite.
        gain: the initial gain of the hidden layers.
        on_logits: whether the output layer is normalized too.
        logits_gain: the initial gain of the output layer.
        groups: for `group`: the number of groups, a divisor of the number of units.
    """

    kind: str = "none"
    groups: int = 10

    kinds: ClassVar[tuple[str, ...]] = ("none", "layer", "group")

    def __post_init__(self) -> None:
        if self.kind in BatchNormalization.kinds:
            others = ", ".join(self.kinds)
            raise UserError(f"for batch norm use the model BatchNormMLP; here choose one of {others}", kind=self.kind)
        super().__post_init__()

    def layer(self, n_features: int, gain: float) -> nn.Module:
        layer: nn.LayerNorm | nn.GroupNorm = nn.LayerNorm(n_features, self.eps)
        if self.kind == "group":
            if self.groups < 1 or n_features % self.groups:
                raise UserError(f"give a divisor of the {n_features} units", groups=self.groups)
            layer = nn.GroupNorm(self.groups, n_features, self.eps)
        nn.init.constant_(layer.weight, gain)
        return layer


@dataclass(frozen=True)
class BatchNormalization(Norm):
    """Normalizes each unit over the minibatch.

    Args:
        kind: `batch`, written by hand, or `BatchNorm1d`, torch's own.
        eps: keeps the division finite.
        gain: the initial gain of the hidden layers.
        on_logits: whether the output layer is normalized too.
        logits_gain: the initial gain of the output layer.
        momentum: the weight of a minibatch in the running statistics.
        statistic: for `batch`: `std`, (x - mean) / (std + eps) as in the notebooks, or `var`,
            (x - mean) / sqrt(var + eps) as in the paper and in torch.
        unbiased: for `batch`: whether to normalize a minibatch by the unbiased estimate, as in the notebooks, or by the
            biased one, as in torch.
    """

    kind: str = "batch"
    momentum: float = 0.001
    statistic: Literal["std", "var"] = "std"
    unbiased: bool = True

    kinds: ClassVar[tuple[str, ...]] = ("batch", "BatchNorm1d")
    subtracts_bias: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum <= 1:
            raise UserError("give a weight from 0 to 1, such as 0.001", momentum=self.momentum)

    def layer(self, n_features: int, gain: float) -> nn.Module:
        if self.kind == "batch":
            return BatchNorm(n_features, self.momentum, self.eps, self.statistic, self.unbiased, gain)
        layer = UnitsLastBatchNorm1d(n_features, self.eps, self.momentum)
        nn.init.constant_(layer.weight, gain)
        return layer
