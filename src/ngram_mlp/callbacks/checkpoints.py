"""The checkpoints of a run: the last, and the best by validation loss."""

import shutil
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from ngram_mlp.errors import require_at_least

__all__ = ["RunCheckpoints"]


class RunCheckpoints(Checkpoint):
    """Saves `last.ckpt` every so many updates, at each validation and at the end, and the best as `best-UPDATE.ckpt`.

    Lightning's ModelCheckpoint is not used because, with manual optimization, it warns at each save, and because its
    `last.ckpt` is the last that was among the best rather than the last.

    Args:
        folder: where the checkpoints go.
        every_n_updates: the updates between two saves of `last.ckpt`.
    """

    def __init__(self, folder: Path, every_n_updates: int = 10_000) -> None:
        require_at_least(1, {"--checkpoint_every": every_n_updates})
        self.every_n_updates = every_n_updates
        self._folder = folder
        self._best_loss = float("inf")
        self._best_path: Path | None = None

    @property
    def last_path(self) -> Path:
        """Where the last state is saved."""
        return self._folder / "last.ckpt"

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every_n_updates == 0:
            trainer.save_checkpoint(self.last_path)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        loss = float(trainer.callback_metrics["val/loss"])
        beaten, better = self._best_path, loss < self._best_loss
        if better:
            self._best_loss = loss
            self._best_path = self._folder / f"best-{trainer.global_step}.ckpt"
        trainer.save_checkpoint(self.last_path)
        if better and self._best_path is not None:
            shutil.copyfile(self.last_path, self._best_path)
            if beaten is not None and beaten != self._best_path:
                beaten.unlink(missing_ok=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.last_path)

    def state_dict(self) -> dict[str, Any]:
        return {"best_loss": self._best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # The best checkpoint itself stays in the folder of the run that saved it.
        self._best_loss = state_dict["best_loss"]
