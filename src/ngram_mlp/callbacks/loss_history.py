"""The loss of every update."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ngram_mlp.callbacks.findings import Findings

__all__ = ["LossHistory"]


class LossHistory(Callback):
    """Keeps the training loss of every update; it travels in checkpoints, so that a resumed run has all of it.

    Args:
        figure: whether to draw the curve at the end.
    """

    def __init__(self, figure: bool = False) -> None:
        self._figure = figure
        self._blocks: list[Tensor] = []
        self.began = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.began = True

    def losses(self) -> Tensor:
        """The losses so far, shape (updates,), float32 on the CPU."""
        self._blocks = [torch.cat([torch.empty(0), *self._blocks])]
        return self._blocks[0]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._blocks.append(outputs["losses"].float().cpu())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._figure and len(losses := self.losses()):
            from ngram_mlp.figures import loss_figure

            Findings(trainer, trainer.global_step).figure("loss", loss_figure(losses.numpy()))

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._blocks = [state_dict["losses"]]
