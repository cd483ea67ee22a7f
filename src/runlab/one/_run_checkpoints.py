"""Saves the checkpoints of a run: the last, and the best by a validation metric."""

import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn

from runlab._errors import require_at_least
from runlab._files import event_files, write_atomically
from runlab.one._checkpoint import Parts, add_parts, serialized

SECONDS_AT_RISK = 1.0
SECONDS_TO_END = 3.0  # after a signal, before a long minibatch or validation is cut short
UPDATES_TO_SIGNAL = 500  # between two exchanges of signals among several processes
Intervals = tuple[int, ...]


class Interrupted(SystemExit):
    """A signal ended the run, which saves its state; the exit status is 128 plus the signal's number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(128 + signal_number)
        self.name = signal.Signals(signal_number).name


class RunCheckpoints(Checkpoint):
    """Saves `last.ckpt` at intervals, after each validation and at the end, and the best as `best-UPDATE.ckpt`.

    A checkpoint is taken between two updates, when the updates so far are fully logged and validated, and TensorBoard's
    files have a known length, to which a resumed run truncates them. On SIGTERM and Ctrl-C the run ends at the next
    such moment; a second signal, or one after training, ends it at once. An exception may come halfway through a chunk,
    so the state saved then is the latest of those kept in memory, one per second.

    Lightning's ModelCheckpoint saves before the loggers have all of an update, and its `last.ckpt` is only the newest
    of the best.

    Args:
        folder: where the checkpoints go.
        every_n_updates: the updates between two saves of `last.ckpt`.
        configuration: the run's configuration as JSON, stored in its checkpoints.
        monitor: the validation metric; the lowest is the best.
    """

    def __init__(
        self, folder: Path, every_n_updates: int = 10_000, configuration: str = "{}", monitor: str = "val/loss"
    ) -> None:
        require_at_least(1, checkpoint_every=every_n_updates)
        self.saved_update: int | None = None
        self.last_path = folder / "last.ckpt"
        self._every_n_updates = every_n_updates
        self._folder = folder
        self._configuration = configuration
        self._monitor = monitor
        self._best_loss = float("inf")
        self._best_update: int | None = None
        self._best_metrics: dict[str, float] = {}
        self._validated = False
        self._metrics: dict[str, float] = {}  # of the last validation, which may precede an interruption
        self._resumes = False
        self._state: tuple[int, bytes] | None = None
        self._state_due = 0.0
        self._signal: int | None = None
        self._patience: threading.Timer | None = None
        self._has_ended = False
        self._told = 0  # the updates that all callbacks have been called for
        self._is_shared = False
        self._gate = _Gate(self)

    def in_order(self, callbacks: Sequence[Callback]) -> list[Callback]:
        """Returns a trainer's callbacks in an order that makes checkpoints complete.

        Checkpoints are taken before any other callback sees the next update. WeightAveraging comes last: at the end it
        replaces the weights, which must be saved first so that the run can resume.
        """
        averages = [callback for callback in callbacks if isinstance(callback, WeightAveraging)]
        return [self._gate, *(callback for callback in callbacks if callback not in averages), *averages]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._folder.mkdir(exist_ok=True)
        self._is_shared = trainer.world_size > 1  # all processes must save at the same updates
        self._signal, self._has_ended = None, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._metrics.items()})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._validated = True
        self._metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        loss = float(trainer.callback_metrics.get(self._monitor, torch.inf))
        if loss < self._best_loss:
            self._best_loss, self._best_update, self._best_metrics = loss, trainer.global_step, self._metrics

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        self._has_ended = True
        self._end_if_asked()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_waiting()
        if self._state is not None and self._state[0] > (self.saved_update or 0):
            with suppress(OSError):  # the first exception is reported, and the earlier checkpoint remains
                write_atomically(self.last_path, self._state[1])
                self.saved_update = self._state[0]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        for logger in trainer.loggers:
            logger.save()
        events = {path.name: path.stat().st_size for path in event_files(self._folder.parent)}
        add_parts(checkpoint, Parts(model=type(pl_module).__name__, configuration=self._configuration, events=events))
        between_updates(checkpoint["loops"]["fit_loop"], trainer.num_training_batches)

    def state_dict(self) -> dict[str, Any]:
        best = {"best_loss": self._best_loss, "best_update": self._best_update, "best_metrics": self._best_metrics}
        return {**best, "metrics": self._metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        loss, update = float(state_dict["best_loss"]), state_dict["best_update"]
        if isinstance(update, int) and self._best_path(update).exists():  # else it is in another run's folder
            self._best_loss, self._best_update, self._best_metrics = loss, update, state_dict["best_metrics"]
        self._metrics = state_dict["metrics"]
        self._resumes = True

    @property
    def best(self) -> tuple[int, dict[str, float]] | None:
        """The update of the best checkpoint, and the metrics of its validation; None if there is none."""
        return None if self._best_update is None else (self._best_update, self._best_metrics)

    @property
    def calls(self) -> tuple[Intervals, Intervals, Intervals]:
        """The intervals of updates after, before and around which it must be called, as in `multistep.Calls`."""
        if self._validated or (not self._is_shared and (self._signal or time.monotonic() > self._state_due)):
            return (), (), (1,)
        every = (self._every_n_updates, *((UPDATES_TO_SIGNAL,) if self._is_shared else ()))
        return every, (), every

    def listen(self, trainer: Trainer) -> None:
        """Installs the signal handlers that end the run; called before the other callbacks start."""
        self._told = trainer.global_step
        if threading.current_thread() is threading.main_thread():  # other threads cannot set handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._end_soon)  # Lightning restores the original handlers

    def after_minibatch(self, trainer: Trainer) -> None:
        """Notes that all callbacks have been called for the updates so far."""
        self._told = trainer.global_step

    def before_minibatch(self, trainer: Any, batch_idx: int) -> None:
        """Saves a due checkpoint, and ends the run after a signal; called right before a minibatch."""
        if batch_idx % trainer.accumulate_grad_batches or self._told != trainer.global_step:
            return
        update = trainer.global_step
        if self._resumes:  # on resuming, Lightning may count the last step twice
            trainer.fit_loop.epoch_loop._batches_that_stepped = update
            self._resumes = False
        # All processes end at the same update, whichever of them received the signal.
        if self._is_shared:
            own = torch.tensor(self._signal or 0, device=trainer.strategy.root_device)
            self._signal = int(trainer.strategy.reduce(own, reduce_op="max")) or None
        due = update % self._every_n_updates == 0 and update > 0
        if (due or self._validated or self._signal) and update != self.saved_update:
            self._save(trainer)
        elif update > 0 and time.monotonic() > self._state_due:
            self._state = update, serialized(trainer._checkpoint_connector.dump_checkpoint(weights_only=False))
            self._state_due = time.monotonic() + SECONDS_AT_RISK
        self._end_if_asked()

    def _save(self, trainer: Trainer) -> None:
        """Saves the last state; if it is also the best, saves that file first, as `last.ckpt` names it."""
        best = self._best_path(self._best_update)
        if self._validated and self._best_update == trainer.global_step:
            trainer.save_checkpoint(best)
            if trainer.is_global_zero:
                write_atomically(self.last_path, best.read_bytes())
            for beaten in set(self._folder.glob("best-*.ckpt")) - {best}:
                beaten.unlink(missing_ok=True)
        else:
            trainer.save_checkpoint(self.last_path)
        self.saved_update, self._validated, self._state = trainer.global_step, False, None

    def _best_path(self, update: int | None) -> Path:
        return self._folder / f"best-{update}.ckpt"

    def _end_soon(self, number: int, frame: FrameType | None) -> None:
        is_first, self._signal = self._signal is None, number
        if not is_first or self._has_ended:
            self._end_if_asked()
        elif not self._is_shared:  # several processes must end together
            self._patience = threading.Timer(SECONDS_TO_END, signal.raise_signal, [number])
            self._patience.daemon = True
            self._patience.start()

    def _end_if_asked(self) -> None:
        if self._signal is not None:
            self._stop_waiting()
            raise Interrupted(self._signal)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()


class _Gate(Callback):
    """Takes checkpoints before any other callback sees the next update."""

    def __init__(self, checkpoints: RunCheckpoints) -> None:
        self._checkpoints = checkpoints

    @property
    def update_calls(self) -> tuple[Intervals, Intervals, Intervals]:
        return self._checkpoints.calls

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._checkpoints.listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._checkpoints.listen(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._checkpoints.before_minibatch(trainer, batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._checkpoints.after_minibatch(trainer)


def between_updates(loops: dict[str, Any], minibatches: float) -> None:
    """Changes Lightning's loop counters in a checkpoint so that a run resumes between two updates.

    Args:
        loops: the state of the loop over epochs and of its inner loops.
        minibatches: the number in an epoch.
    """
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    for account in (batches["total"], batches["current"]):
        if account["ready"] > account["processed"]:  # the fetched minibatch will be fetched again
            account["ready"] = account["started"] = account["processed"]
            batches["is_last_batch"] = False
    if epochs["current"]["ready"] == epochs["current"]["processed"]:  # the run is over
        if batches["current"]["ready"] < minibatches:  # within an epoch, which a longer run continues
            for account in (epochs["total"], epochs["current"]):
                account["processed"] = account["completed"] = account["ready"] - 1
        else:
            batches["current"] = dict.fromkeys(batches["current"], 0)
            batches["is_last_batch"] = False
