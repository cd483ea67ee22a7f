"""Trains a module for the benchmark, quietly and timed by the epoch."""

import logging
import warnings
from typing import Any

from measure import Clock
from pytorch_lightning import Callback, LightningModule, Trainer

from multistep import MultiStep


class Ticks(Callback):
    """Reports the number of updates done to a clock at the end of each epoch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.clock.tick(trainer.global_step)


def time_training(module: LightningModule, data: Any, engine: str, epochs: int) -> None:
    """Trains on the CPU by an engine of multistep, or for `ordinary` without its callback, and prints the timing."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    clock = Clock()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[Ticks(clock), *([] if engine == "ordinary" else [MultiStep(engine)])],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    clock.report()
