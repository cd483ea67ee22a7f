"""Batch normalization written by hand."""

import torch
from torch import Tensor, nn

from ngram_mlp.errors import UserError

__all__ = ["BatchNorm"]


class BatchNorm(nn.Module):
    r"""Batch normalization by the standard deviation, as cell 11 of notebook 002 writes it.

    For a minibatch x of shape (B, n), with the mean m and the unbiased standard deviation s of each unit over the
    minibatch, training computes

    .. math:: y = gain \cdot (x - m) / (s + eps) + bias

    and moves the running estimates: `running = (1 - momentum) * running + momentum * (m or s)`. Evaluation uses the
    running estimates instead of m and s, so that a single example can be evaluated.

    `torch.nn.BatchNorm1d` differs: it divides by sqrt(var + eps) with the biased variance, and keeps a running
    variance. Source: Ioffe and Szegedy 2015, arXiv:1502.03167, in the notebooks' form.

    Args:
        n_features: the units n.
        momentum: the weight of a minibatch in the running estimates.
        eps: what is added to the standard deviation.
    """

    gain: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_std: Tensor

    def __init__(self, n_features: int, momentum: float = 0.001, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(n_features))
        self.bias = nn.Parameter(torch.zeros(n_features))
        self.register_buffer("running_mean", torch.zeros(n_features))
        self.register_buffer("running_std", torch.ones(n_features))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self._normalize(x, self.running_mean, self.running_std)
        if len(x) < 2:
            raise UserError(
                "batch norm has no standard deviation over a minibatch of 1 example; "
                "set --data.batch_size to at least 2, or train a model without batch norm"
            )
        std, mean = torch.std_mean(x, dim=0)  # (n,) each
        with torch.no_grad():
            # The estimates stay in float32 where the activations have fewer bits.
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_std.lerp_(std.to(self.running_std.dtype), self.momentum)
        return self._normalize(x, mean, std)

    def _normalize(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        # gain / (std + eps) first: n divisions instead of B * n, and one multiplication and addition an element.
        return torch.addcmul(self.bias, x - mean, self.gain / (std + self.eps))

    def extra_repr(self) -> str:
        return f"{len(self.gain)}, momentum={self.momentum}, eps={self.eps}"
