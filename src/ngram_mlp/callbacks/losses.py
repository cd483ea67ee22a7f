"""Collects and saves the loss of every update, and ends a run that has diverged."""

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from multistep import Calls
from ngram_mlp.processes import average, processes
from runlab import Diverged, UserError, write_atomically


class Losses(Callback):
    """Collects the loss of every update, the mean over its accumulated minibatches, as float32 on the CPU.

    When a run resumes from a checkpoint without this callback, the earlier updates have the loss nan.

    Args:
        file: where the losses are saved, by `numpy.save`, when training ends or is cut short.

    Raises:
        Diverged: a training loss is not finite.
        UserError: `training_step` returns no loss.
    """

    update_calls = Calls()  # each call brings the losses of all minibatches since the last one

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._room = torch.empty(0)
        self._count = 0
        self._accumulated: Tensor | None = None  # losses of an incomplete update

    def __len__(self) -> int:
        return self._count

    @property
    def all(self) -> Tensor:
        """A copy of all losses so far, (updates,)."""
        return self._room[: self._count].clone()

    def between(self, first: int, end: int) -> Tensor:
        """Returns the losses of the updates from `first` to before `end`, as far as they exist."""
        return self._room[first : min(end, self._count)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._count != trainer.global_step:
            self._room = torch.full((trainer.global_step,), torch.nan)
            self._count = trainer.global_step
        self._accumulated = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        each = trainer.accumulate_grad_batches
        if not outputs:
            raise UserError(
                "training_step returned no loss; return one for every minibatch", model=type(pl_module).__name__
            )
        losses = _of_minibatches(outputs, each)
        if self._accumulated is not None:
            losses = torch.cat([self._accumulated, losses])
        whole = len(losses) // each * each
        updates, rest = losses[:whole].view(-1, each).mean(1), losses[whole:]
        if len(rest) and trainer.is_last_batch:  # an epoch's last minibatches form an update, however few
            updates, rest = torch.cat([updates, rest.mean(0, keepdim=True)]), rest[:0]
        self._accumulated = rest if len(rest) else None
        if len(updates):
            if processes() > 1:
                average([updates])
            self._add(updates.cpu())

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._count:
            with suppress(OSError):  # perhaps a full disk; the error that ended the run is reported
                self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.all}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._room = state_dict["losses"]
        self._count = len(self._room)

    def _add(self, losses: Tensor) -> None:
        if bad := (~losses.isfinite()).nonzero().flatten().tolist():
            what = f"diverged at update {self._count + bad[0]:,}: the training loss is {losses[bad[0]].item()}"
            self._add(losses[: bad[0]])
            raise Diverged(f"{what}; lower the optimizer's lr, or scale the initial weights down")
        count = self._count + len(losses)
        if count > len(self._room):
            self._room = torch.cat([self._room, self._room.new_empty(count)])  # at least twice the capacity
        self._room[self._count : count] = losses
        self._count = count

    def _save(self, trainer: Trainer) -> None:
        if self.file is not None and trainer.is_global_zero:
            buffer = io.BytesIO()
            np.save(buffer, self.all.numpy())
            write_atomically(self.file, buffer.getvalue())


def _of_minibatches(outputs: Any, accumulated: int) -> Tensor:
    """Returns the losses (K,) of the minibatches since the last call; undoes Lightning's division when accumulating."""
    losses: Tensor = outputs["losses"] if "losses" in outputs else outputs["loss"].detach()[None] * accumulated
    return losses.float()
