"""A run's last validation, where no interval ends with the run."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from multistep import Calls
from runlab import updates_of


class ValidationAtEnd(Callback):
    """Has the trainer validate after the last update of the run, whatever `val_check_interval` is.

    A trainer that is told to stop validates before it does.
    """

    update_calls = Calls()  # it is called after the last update in any case

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == updates_of(trainer):
            trainer.should_stop = True
