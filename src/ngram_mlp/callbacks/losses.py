"""The loss of every update: collected, saved, and the end of a run that has diverged."""

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
    """Collects the loss of every update, float32 on the CPU: the mean over the minibatches that it accumulates.

    Updates before it was there, in a run that resumes from a checkpoint without it, have the loss nan.

    Args:
        file: where they are saved, as by `numpy.save`, when the training ends or is cut short.

    Raises:
        Diverged: while training, a loss is not finite.
        UserError: the module's step returns none.
    """

    update_calls = Calls()  # it is told of all minibatches, as often as it is called

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._room = torch.empty(0)
        self._count = 0
        self._accumulated: Tensor | None = None  # of the minibatches of an update that is not complete

    def __len__(self) -> int:
        return self._count

    @property
    def all(self) -> Tensor:
        """A copy of all so far, (updates,)."""
        return self._room[: self._count].clone()

    def between(self, first: int, end: int) -> Tensor:
        """Returns those of the updates from `first` to before `end`, as far as there are."""
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
                "training_step has returned no loss; return one for every minibatch", model=type(pl_module).__name__
            )
        losses = _of_minibatches(outputs, each)
        if self._accumulated is not None:
            losses = torch.cat([self._accumulated, losses])
        whole = len(losses) // each * each
        updates, rest = losses[:whole].view(-1, each).mean(1), losses[whole:]
        if len(rest) and trainer.is_last_batch:  # the last minibatches of an epoch are an update, however few
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
            with suppress(OSError):  # of a full disk, perhaps; what ended the run is reported
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
            self._room = torch.cat([self._room, self._room.new_empty(count)])  # at least twice the room
        self._room[self._count : count] = losses
        self._count = count

    def _save(self, trainer: Trainer) -> None:
        if self._file is not None and trainer.is_global_zero:
            buffer = io.BytesIO()
            np.save(buffer, self.all.numpy())
            write_atomically(self._file, buffer.getvalue())


def _of_minibatches(outputs: Any, accumulated: int) -> Tensor:
    """The losses (K,) of the minibatches since the last call, which Lightning divides by those of an update."""
    losses: Tensor = outputs["losses"] if "losses" in outputs else outputs["loss"].detach()[None] * accumulated
    return losses.float()
