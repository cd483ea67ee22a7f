"""Checks whether a trainer's updates may be compiled at all."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.profilers import PyTorchProfiler

from multistep._averaging import own_formula
from multistep._errors import CannotFuseError
from multistep._loaders import refused_data
from multistep._reach import reads_gradients
from multistep._schedules import changes_more_than_the_learning_rate


def refuse_what_cannot_be_fused(trainer: Any) -> None:
    """Raises a CannotFuseError if something about the trainer rules out compiled updates."""
    if trainer.world_size > 1:
        raise CannotFuseError("several processes exchange their gradients at every update")
    if isinstance(trainer.profiler, PyTorchProfiler):
        raise CannotFuseError("PyTorchProfiler records every operation")
    if torch.is_anomaly_enabled():
        raise CannotFuseError("detect_anomaly checks every operation")
    if type(trainer.lightning_module).log is not LightningModule.log:
        raise CannotFuseError(f"{type(trainer.lightning_module).__name__} overrides log")
    if reason := refused_data(trainer):
        raise CannotFuseError(reason)
    if (average := own_formula(trainer)) is not None:
        raise CannotFuseError(f"the callback {average} averages weights with its own formula or timing")
    for config in trainer.lr_scheduler_configs:
        if reads_gradients(config.scheduler, trainer.lightning_module):
            raise CannotFuseError(f"the schedule {type(config.scheduler).__name__} reads gradients")
        if changes_more_than_the_learning_rate(config.scheduler):
            raise CannotFuseError(f"the schedule {type(config.scheduler).__name__} also changes the momentum")
