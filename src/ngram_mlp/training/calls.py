"""When a trainer's callbacks and all that takes part in training want to be called, and so whether chunks are possible.

Lightning's own callbacks are known here by what they need. Another one is asked for its declaration, `update_calls`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Callback, callbacks
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.model_helpers import is_overridden

from ngram_mlp.errors import UserError


@dataclass(frozen=True)
class Calls:
    """The intervals, in updates, at which a callback needs `on_train_batch_start` and `on_train_batch_end`.

    A callback declares them as its attribute `update_calls`. Then updates may be trained in chunks, with one call of
    each hook per chunk. A chunk ends where `trainer.global_step` is a multiple of an interval in `after`. One begins
    right before an update that makes it a multiple of an interval in `before`. Every update that is a multiple of an
    interval in `around`, and the last one, is a chunk of its own, so that the hooks are called right before and right
    after it; with None, no update is. A chunk of one update is handed to the hooks as an ordinary minibatch.
    """

    after: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    around: tuple[int, ...] | None = None

    def __or__(self, other: "Calls") -> "Calls":
        """What two callbacks need together."""
        around = None if self.around is other.around is None else (*(self.around or ()), *(other.around or ()))
        return Calls((*self.after, *other.after), (*self.before, *other.before), around)


BATCH_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
DATA_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
MODULE_HOOKS = (
    *BATCH_HOOKS,
    *DATA_HOOKS,
    "forward",
    "training_step",
    "backward",
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "clip_gradients",
    "lr_scheduler_step",
)
EPOCHS = "counts epochs, and there is one"


def _of_checkpoints(callback: Any, _trainer: Any) -> Calls | None:
    every = callback._every_n_train_steps
    return None if callback.save_on_exception else Calls(after=(every,) if every > 0 else ())


def _of_learning_rates(callback: Any, trainer: Any) -> Calls:
    return NOTHING if callback.logging_interval == "epoch" else _when_logging(callback, trainer)


def _of_moving_average(callback: Any, trainer: Any) -> Calls | None:
    here = callback._device is None or callback._device == trainer.strategy.root_device
    return NOTHING if here else None  # an engine averages only where it trains


def _when_logging(_callback: Any, trainer: Any) -> Calls:
    every: int = trainer.log_every_n_steps
    return Calls(before=(every,), after=(every,)) if every else NOTHING


NOTHING = Calls()
# What Lightning's own callbacks need: their calls, None for every update, or why they are refused and what would do.
Wish = Calls | None | str | Callable[[Any, Any], Calls | None]
LIGHTNINGS: dict[type[Callback], Wish] = {
    callbacks.BackboneFinetuning: NOTHING,  # it acts before the first update
    callbacks.BaseFinetuning: NOTHING,
    callbacks.BasePredictionWriter: NOTHING,
    callbacks.BatchSizeFinder: NOTHING,  # it trains by itself, before the first update
    callbacks.Callback: NOTHING,  # its hooks do nothing
    callbacks.Checkpoint: NOTHING,
    callbacks.DeviceStatsMonitor: _when_logging,
    callbacks.EarlyStopping: NOTHING,
    callbacks.GradientAccumulationScheduler: f"{EPOCHS}; use the trainer's accumulate_grad_batches",
    callbacks.LambdaCallback: NOTHING,  # but for the hooks that it was given
    callbacks.LearningRateFinder: NOTHING,  # it trains by itself, before the first update
    callbacks.LearningRateMonitor: _of_learning_rates,
    callbacks.ModelCheckpoint: _of_checkpoints,
    callbacks.ModelPruning: None,  # it replaces parameters
    callbacks.ModelSummary: NOTHING,
    callbacks.OnExceptionCheckpoint: None,
    callbacks.ProgressBar: NOTHING,
    callbacks.RichModelSummary: NOTHING,
    callbacks.RichProgressBar: NOTHING,  # it shows progress as often as it is called
    callbacks.SpikeDetection: None,
    callbacks.StochasticWeightAveraging: f"{EPOCHS}; use EMAWeightAveraging",
    callbacks.TQDMProgressBar: NOTHING,  # as the other
    callbacks.ThroughputMonitor: None,
    callbacks.Timer: NOTHING,  # it stops the training at the end of a chunk
    callbacks.WeightAveraging: None,
    callbacks.EMAWeightAveraging: _of_moving_average,
}


def calls_of(callback: Callback, trainer: Any) -> Calls | None:
    """When a callback has to be called; None for every update. Raises a UserError where it cannot work here."""
    declared: Calls | None = getattr(callback, "update_calls", None)
    if declared is not None:
        return declared
    kind = next(kind for kind in type(callback).__mro__ if kind in LIGHTNINGS)
    wish = LIGHTNINGS[kind]
    if isinstance(wish, str):
        reason, remedy = wish.split("; ")
        raise UserError(f"{kind.__name__} {reason}; {remedy}", callbacks=None)
    if _overridden(BATCH_HOOKS, callback, kind):
        return None
    return wish(callback, trainer) if callable(wish) else wish


def calls_of_all(trainer: Any) -> Calls:
    """When the trainer and those of its callbacks that do not want every update have to be called."""
    validates = trainer.val_check_interval
    every = validates // trainer.accumulate_grad_batches if isinstance(validates, int) else 0
    calls = Calls(tuple(interval for interval in (trainer.log_every_n_steps, every) if interval))
    for callback in trainer.callbacks:
        calls |= calls_of(callback, trainer) or NOTHING
    return calls


def why_not_chunks(trainer: Any, module_class: type, data_class: type) -> str | None:
    """Who takes part in this training and wants a call at every update, in words; None where nobody does.

    Hooks count where a model or data overrides those of these two classes. Called when the optimizers are there.
    """
    for callback in trainer.callbacks:
        if calls_of(callback, trainer) is None:
            hooks = _overridden(BATCH_HOOKS, callback, Callback) or ["training as it is"]
            return f"{type(callback).__name__} wants {hooks[0]} at every update"
    if hooks := _overridden(MODULE_HOOKS, trainer.lightning_module, module_class):
        return f"{type(trainer.lightning_module).__name__} has a {hooks[0]} of its own"
    data = trainer.datamodule
    if not isinstance(data, data_class):
        return "the minibatches are not those of NGramDataModule"
    if hooks := _overridden(("train_dataloader", *DATA_HOOKS), data, data_class):
        return f"{type(data).__name__} has a {hooks[0]} of its own"
    return _why_not_by_itself(trainer)


def _why_not_by_itself(trainer: Any) -> str | None:
    """What among the trainer's options, strategy, optimizer and schedule works with single minibatches alone."""
    strategy, precision = trainer.strategy, trainer.precision_plugin
    for part in (strategy, precision):
        if not type(part).__module__.startswith("pytorch_lightning."):
            return f"{type(part).__name__} may want a call at every update"
    if trainer.world_size > 1 and not isinstance(strategy, DDPStrategy):
        return f"{type(strategy).__name__} exchanges gradients by itself"
    if getattr(precision, "scaler", None) is not None:
        return f"precision {trainer.precision} rescales the gradients"
    if isinstance(trainer.val_check_interval, int) and trainer.val_check_interval % trainer.accumulate_grad_batches:
        return "val_check_interval is no multiple of accumulate_grad_batches"
    optimizers, schedules = trainer.optimizers, trainer.lr_scheduler_configs
    if len(optimizers) != 1 or inspect.signature(optimizers[0].step).parameters["closure"].default is not None:
        return f"the optimizer {type(optimizers[0]).__name__} evaluates the loss by itself"
    if len(schedules) != 1 or (schedules[0].interval, schedules[0].frequency) != ("step", 1):
        return "there is not one learning-rate schedule, stepped after every update"
    return None


def _overridden(hooks: tuple[str, ...], instance: object, parent: type) -> list[str]:
    return [hook for hook in hooks if is_overridden(hook, instance, parent)]
