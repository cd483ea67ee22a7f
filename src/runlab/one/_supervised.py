"""Reports the validations of a run to the process that watches it, which may end the run."""

import sys
from multiprocessing.connection import Connection

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from runlab._channel import Begins, HasDiverged, Validated
from runlab._errors import Diverged


def updates_of(trainer: Trainer) -> int:
    """Returns the number of updates that max_steps and max_epochs allow; sys.maxsize if unlimited or unknown."""
    if trainer.max_epochs in (None, -1):
        return trainer.max_steps if trainer.max_steps >= 0 else sys.maxsize
    try:
        return int(trainer.estimated_stepping_batches)
    except (MisconfigurationException, OverflowError):  # varying accumulation, or endless epochs
        return sys.maxsize


class Supervised(Callback):
    """Reports the events of a run to a process, and waits for its answer each time.

    If the answer is no, the run ends: before its first update by SystemExit(0), after a validation as if it were done.
    A validation does not end a run of several processes.

    Args:
        connection: to the process that watches the run.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._may_go_on(Begins(sum(parameter.numel() for parameter in pl_module.parameters()))):
            raise SystemExit(0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        is_last = trainer.should_stop or trainer.global_step == updates_of(trainer)
        if not self._may_go_on(Validated(trainer.global_step, metrics, is_last)) and trainer.world_size == 1:
            trainer.should_stop = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Diverged):
            self._may_go_on(HasDiverged())

    def _may_go_on(self, message: Begins | Validated | HasDiverged) -> bool:
        try:
            self._connection.send(message)
            return bool(self._connection.recv())
        except (EOFError, OSError):  # the watching process has ended, and this one will end with it
            return True
