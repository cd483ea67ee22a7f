"""Checks whether a trainer's updates may be compiled at all."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.profilers import PyTorchProfiler
from torch import nn

from multistep._averaging import own_formula
from multistep._calls import is_overridden
from multistep._errors import CannotFuseError
from multistep._hooks import reads_gradients
from multistep._loaders import refused_data
from multistep._schedules import changes_more_than_the_learning_rate

# Methods that list what an update may change.
LISTING = [f"{prefix}{what}" for prefix in ("", "named_") for what in ("parameters", "buffers", "modules", "children")]


def refuse_what_cannot_be_fused(trainer: Any) -> None:
    """Raises a CannotFuseError if something about the trainer rules out compiled updates."""
    if trainer.world_size > 1:
        raise CannotFuseError("several processes exchange their gradients at every update")
    if isinstance(trainer.profiler, PyTorchProfiler):
        raise CannotFuseError("PyTorchProfiler records every operation")
    if torch.is_anomaly_enabled():
        raise CannotFuseError("detect_anomaly checks every operation")
    if is_overridden("log", trainer.lightning_module, LightningModule):
        raise CannotFuseError(f"{type(trainer.lightning_module).__name__} overrides log")
    for child in _modules_in(trainer.lightning_module):
        if hides := next((name for name in LISTING if is_overridden(name, child, nn.Module)), None):
            raise CannotFuseError(f"{type(child).__name__} overrides {hides}")
    if reason := refused_data(trainer):
        raise CannotFuseError(reason)
    if (average := own_formula(trainer)) is not None:
        raise CannotFuseError(f"the callback {average} averages weights with its own formula or timing")
    for config in trainer.lr_scheduler_configs:
        if reads_gradients([config.scheduler], trainer.lightning_module):
            raise CannotFuseError(f"the schedule {type(config.scheduler).__name__} reads gradients")
        if changes_more_than_the_learning_rate(config.scheduler):
            raise CannotFuseError(f"the schedule {type(config.scheduler).__name__} also changes the momentum")


def _modules_in(module: nn.Module) -> list[nn.Module]:
    """Returns a module and all its submodules, whatever they list themselves."""
    found = [module]
    for each in found:
        known = {*map(id, found), id(None)}
        found += [child for child in vars(each)["_modules"].values() if id(child) not in known]
    return found
