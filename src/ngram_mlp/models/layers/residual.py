"""Identity shortcuts."""

from torch import Tensor, nn


class Residual(nn.Sequential):
    """Its layers in turn, with the input added to their output: y = x + f(x), both of shape (B, n).

    The gradient reaches x undiminished, whatever f does to it: the shortcut of He et al. 2015, arXiv:1512.03385, which
    the opening notes of notebook 000 describe.
    """

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return x + y
