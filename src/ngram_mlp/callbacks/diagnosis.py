"""A diagnosis never costs a run: where a callback that only observes fails, one line says so and the run goes on."""

import logging
import textwrap
from collections.abc import Callable
from functools import wraps
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from ngram_mlp.diagnostics.snapshot import Snapshot
from runlab import Diverged, UserError, full_disk, printable

log = logging.getLogger(__name__)
strict = False  # whether failures raise: tests set it, so that a diagnosis cannot fail in one unnoticed

# Not `setup`, and nothing that reads a checkpoint: what is wrong there is wrong before any training could be lost.
HOOKS = {name for name in dir(Callback) if name.startswith("on_")} - {"on_load_checkpoint"} | {"state_dict"}
OBSERVING = {"before_update", "observe", "draw"}
# Called even when the rest is off: the one lets go of resources, the other decides when there is a snapshot, which
# several processes have to take together.
ALWAYS = {"teardown", "due"}


def is_an_end(exception: BaseException) -> bool:
    """Whether a run was cut short by a signal or by its own loss, not by a mistake or a bug: it has figures then."""
    return isinstance(exception, (KeyboardInterrupt, SystemExit, Diverged))


class Diagnosis(Callback):
    """A callback that only observes: if one of its hooks raises, it is switched off for the rest of the run.

    Three kinds of errors end the run nevertheless: a `UserError`, as an option is to be changed; a full disk, which
    concerns more than this callback; and, for who wants a traceback, all of them with the trainer's `detect_anomaly`.
    """

    is_off = False
    _label = ""  # how the line names it; by default as the class is named
    _trainer: Any = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in (HOOKS | OBSERVING | ALWAYS) & vars(cls).keys():
            setattr(cls, name, _guarded(vars(cls)[name], name in ALWAYS))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        if stage == "fit":
            self.is_off = False

    def switch_off(self) -> None:
        """Has its hooks do nothing from now on."""
        self.is_off = True


def _guarded(hook: Callable[..., Any], always: bool = False) -> Callable[..., Any]:
    @wraps(hook)
    def guarded(self: Diagnosis, *args: Any, **kwargs: Any) -> Any:
        if self.is_off and not always:
            return None
        try:
            return hook(self, *args, **kwargs)
        except Exception as error:
            wanted = strict or getattr(self._trainer, "_detect_anomaly", False)
            if wanted or isinstance(error, UserError) or full_disk(error):
                raise
            if not self.is_off:
                self.switch_off()
                update = next((arg.update for arg in args if isinstance(arg, Snapshot)), self._trainer.global_step)
                what = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
                who = f"{self._label or type(self).__name__} failed at update {update:,} and is switched off"
                log.warning("%s: %s (with detect_anomaly it raises)", who, printable(what))
            return None

    return guarded
