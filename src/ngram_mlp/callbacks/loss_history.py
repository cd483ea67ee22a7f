"""The loss of every update."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

__all__ = ["LossHistory"]


class LossHistory(Callback):
    """Keeps the training loss of every update; it travels in checkpoints, so that a resumed run has all of it."""

    def __init__(self) -> None:
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

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._blocks = [state_dict["losses"]]
