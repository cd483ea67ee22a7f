"""Validates after the last update of a run."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from multistep import Calls
from runlab import updates_of


class ValidationAtEnd(Callback):
    """Stops the trainer after the run's last update, which makes it validate, whatever `val_check_interval` is."""

    update_calls = Calls()  # called after the last update in any case

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == updates_of(trainer):
            trainer.should_stop = True
