"""Moves the weight averages of Lightning's `WeightAveraging` callbacks in an engine's updates."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from multistep._describe import describe
from multistep._origins import module_of


class Average:
    """The average that a callback keeps; the callback still handles validation, checkpoints and the end of training."""

    def __init__(self, callback: WeightAveraging) -> None:
        model = callback._average_model
        assert model is not None
        assert model.avg_fn is not None
        self._callback = callback
        self._model: Any = model

    def description(self) -> list[Any]:
        """Returns what the compiled code of this average depends on."""
        return [describe(self._model.avg_fn), self._model.use_buffers]

    def state(self) -> dict[str, list[Tensor]]:
        """Returns the tensors of the average, in the order of the module's own, and the number of averaged models."""
        module = self._model.module
        return {
            "parameters": [parameter.detach() for parameter in module.parameters()],
            "buffers": list(module.buffers()),
            "averaged": [self._model.n_averaged],
        }

    def move(
        self, state: dict[str, list[Tensor]], parameters: Sequence[Tensor], buffers: Sequence[Tensor], due: Tensor
    ) -> None:
        """Performs torch's `AveragedModel.update_parameters` in place, if `due`."""
        (averaged,) = state["averaged"]
        pairs = list(zip(state["parameters"], parameters, strict=True))
        others = list(zip(state["buffers"], buffers, strict=True))
        if self._model.use_buffers:
            pairs, others = [*pairs, *others], []
        for average, value in pairs:
            moved = self._model.avg_fn(average, value, averaged).to(average.dtype)
            average.copy_(torch.where(due, torch.where(averaged == 0, value, moved), average))
        for average, value in others:
            average.copy_(torch.where(due, value, average))
        averaged.copy_(averaged + due)

    def due(self, first: int, updates: int) -> list[bool]:
        """Returns for each of these updates whether it moves the average."""
        return [bool(self._callback.should_update(step_idx=update)) for update in range(first, first + updates)]

    def moved(self, update: int) -> None:
        """Records that the average was moved after an update, so that the callback does not move it again."""
        self._callback._latest_update_step = update + 1


def own_formula(trainer: Any) -> str | None:
    """Returns the name of a callback with its own averaging formula or timing, which may read anything, or None."""
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            functions = (callback._average_model.avg_fn, type(callback).should_update)
            if not all(module_of(each).startswith(("torch.", "pytorch_lightning.")) for each in functions):
                return type(callback).__name__
    return None


def averages_of(trainer: Any) -> list[Average]:
    """Returns the averages that the trainer's callbacks keep."""
    return [Average(callback) for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]
