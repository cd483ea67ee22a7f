"""Defines batch normalization written by hand."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ngram_mlp.models.layers.names import named_layers
from ngram_mlp.processes import processes, total
from runlab import UserError


class BatchNorm(nn.Module):
    r"""Batch normalization by the standard deviation, as in cell 11 of notebook 002, or by the variance.

    For a minibatch x of shape (B, ..., n), with the mean m and the standard deviation s of each of the n units over all
    other dimensions, training computes

    .. math:: y = gain \cdot (x - m) / (s + eps) + bias \quad or \quad y = gain \cdot (x - m) / \sqrt{s^2 + eps} + bias

    and moves the running estimates of the mean and of the unbiased s, or s squared:
    `running = (1 - momentum) * running + momentum * now`. Evaluation uses the running estimates instead.

    When several processes train together, the statistics are those of all their examples (arXiv:1803.01534), and
    gradients flow through them. With `statistic="var", unbiased=False` this is `torch.nn.BatchNorm1d`. Source: Ioffe
    and Szegedy 2015, arXiv:1502.03167, in the form of the notebooks.
    """

    gain: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_std: Tensor  # with `std`
    running_var: Tensor  # with `var`

    def __init__(
        self,
        n_features: int,
        momentum: float = 0.001,  # the weight of a minibatch in the running estimates
        eps: float = 1e-5,
        statistic: Literal["std", "var"] = "std",  # divides x by std + eps, or by the root of var + eps
        unbiased: bool = True,  # whether s squared divides by the examples minus one, as in the notebooks
        gain: float = 1.0,  # the initial gain
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.statistic = statistic
        self.unbiased = unbiased
        self.gain = nn.Parameter(torch.full((n_features,), gain))
        self.bias = nn.Parameter(torch.zeros(n_features))
        self.register_buffer("running_mean", torch.zeros(n_features))
        self.register_buffer(f"running_{statistic}", torch.ones(n_features))

    def forward(self, x: Tensor) -> Tensor:
        running = self.running_std if self.statistic == "std" else self.running_var
        if not self.training:
            kind = self.gain.dtype
            return self._normalize(x, self.running_mean.to(kind), running.to(kind))
        examples = examples_of(x, self)
        size = len(examples) * processes()
        if size < 2:
            raise UserError("batch norm has no standard deviation over 1 example; give at least 2", batch_size=size)
        mean, spread = self._measure(examples, size)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(running.dtype), self.momentum)
            running.lerp_(spread.to(running.dtype), self.momentum)
        if not self.unbiased:
            ratio = (size - 1) / size
            spread = spread * (ratio**0.5 if self.statistic == "std" else ratio)
        return self._normalize(x, mean, spread)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "BatchNorm":
        """Moves and casts the parameters; the estimates stay in float32, as 16 bits would round their moves away."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in self.named_buffers():
            if buffer.itemsize < 4:
                setattr(self, name, buffer.float())
        return self

    def _measure(self, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Returns mean and unbiased spread (n,) over the examples of all processes, `size` in total."""
        if size == len(x):
            measure = torch.std_mean if self.statistic == "std" else torch.var_mean
            spread, mean = measure(x, dim=0)
            return mean, spread
        mean = total(x.sum(0)) / size
        spread = total(((x - mean) ** 2).sum(0)) / (size - 1)
        if self.statistic == "std":  # the root has an infinite slope at 0
            spread = spread.clamp_min(torch.finfo(spread.dtype).tiny).sqrt()
        return mean, spread

    def _normalize(self, x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        divisor = spread + self.eps if self.statistic == "std" else (spread + self.eps).sqrt()
        # gain / divisor first: n divisions instead of B * n, and one multiplication and addition per element.
        return torch.addcmul(self.bias, x - mean, self.gain / divisor)

    def extra_repr(self) -> str:
        return f"{len(self.gain)}, {self.statistic}, momentum={self.momentum}, eps={self.eps}"


class UnitsLastBatchNorm1d(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` with the units in the last dimension, (B, ..., n), as in all other layers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(examples_of(x, self)).view_as(x)


def examples_of(x: Tensor, layer: nn.Module) -> Tensor:
    """Returns the input of a batch norm with one example per row, (examples, n), for statistics over the rows.

    Torch's own layer has the units in the second dimension, (B, n) or (B, n, L); all others in the last, (B, ..., n).
    """
    if isinstance(layer, nn.BatchNorm1d) and not isinstance(layer, UnitsLastBatchNorm1d):
        x = x.movedim(1, -1)
    return x.flatten(0, -2)


def batch_norms(network: nn.Module) -> dict[str, BatchNorm | nn.BatchNorm1d]:
    """Returns the batch-norm layers of a network by name, in their order."""
    return {name: layer for name, layer in named_layers(network) if isinstance(layer, (BatchNorm, nn.BatchNorm1d))}
