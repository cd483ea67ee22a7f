"""When a trainer's callbacks and all that takes part in training want to be called, and so whether chunks are possible.

Lightning's own callbacks are known here by what they need. Another one is asked for its declaration, `update_calls`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
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


HOOKS_WITHIN = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end", *HOOKS_WITHIN)
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
# What a callback needs, from the callback, its trainer and the model; None for every update.
Wish = Callable[[Any, Any, Any], Calls | None]
NOTHING = Calls()
SHOWS_EVERY = 1_000


def _checkpoints(callback: Any, _trainer: Any, _model: Any) -> Calls | None:
    every: int = getattr(callback, "_every_n_train_steps", 1)
    return None if callback.save_on_exception else Calls(after=(every,) if every > 0 else ())


def _learning_rates(callback: Any, trainer: Any, model: Any) -> Calls:
    return NOTHING if callback.logging_interval == "epoch" else _logging(callback, trainer, model)


def _logging(_callback: Any, trainer: Any, _model: Any) -> Calls:
    every: int = trainer.log_every_n_steps
    return Calls(before=(every,), after=(every,)) if every else NOTHING


def _device_statistics(callback: Any, trainer: Any, model: Any) -> Calls:
    if (
        getattr(callback, "_cpu_stats", None) is not False
        and trainer.strategy.root_device.type == "cpu"
        and find_spec("psutil") is None
    ):
        raise UserError("DeviceStatsMonitor needs psutil on a CPU; install it, or leave it out", callbacks=None)
    return _logging(callback, trainer, model)


def _progress(callback: Any, _trainer: Any, _model: Any) -> Calls:
    # It shows the number of a minibatch, where that is a multiple of its rate. Every update would be too often.
    rate = getattr(callback, "refresh_rate", 0) or SHOWS_EVERY
    every = rate * -(-SHOWS_EVERY // rate)
    return Calls(before=(every,), after=(every,), around=())


def _moving_average(callback: Any, trainer: Any, _model: Any) -> Calls | None:
    device = getattr(callback, "_device", None)
    here = device is None or device == trainer.strategy.root_device
    return NOTHING if here else None  # an engine averages only where it trains


def _counts_epochs(remedy: str) -> Wish:
    def refuse(callback: Any, _trainer: Any, _model: Any) -> Calls:
        raise UserError(f"{type(callback).__name__} counts epochs, and there is one; {remedy}", callbacks=None)

    return refuse


def _finetuning(callback: Any, _trainer: Any, _model: Any) -> Calls:
    if type(callback) is callbacks.BaseFinetuning:
        raise UserError("BaseFinetuning is abstract; write a subclass for the network's layers", callbacks=None)
    return NOTHING  # it acts before the first update


def _needs(attributes: tuple[str, ...], remedy: str) -> Wish:
    def refuse_without(callback: Any, _trainer: Any, model: Any) -> Calls:
        if not any(hasattr(model, name) for name in attributes):
            what = f"{type(callback).__name__} needs a model with an attribute {' or '.join(attributes)}"
            raise UserError(f"{what}; {remedy}", callbacks=None)
        return NOTHING  # it acts before the first update

    return refuse_without


LIGHTNINGS: dict[type[Callback], Calls | Wish | None] = {
    callbacks.BackboneFinetuning: _needs(("backbone",), "write a BaseFinetuning for the network's layers"),
    callbacks.BaseFinetuning: _finetuning,
    callbacks.BasePredictionWriter: NOTHING,
    callbacks.BatchSizeFinder: NOTHING,  # it trains by itself, before the first update
    callbacks.Callback: NOTHING,  # its hooks do nothing
    callbacks.Checkpoint: NOTHING,
    callbacks.DeviceStatsMonitor: _device_statistics,
    callbacks.EarlyStopping: NOTHING,
    callbacks.GradientAccumulationScheduler: _counts_epochs("use the trainer's accumulate_grad_batches"),
    callbacks.LambdaCallback: NOTHING,  # but for the hooks that it was given
    callbacks.LearningRateFinder: _needs(("lr", "learning_rate"), "compare several rates"),
    callbacks.LearningRateMonitor: _learning_rates,
    callbacks.ModelCheckpoint: _checkpoints,
    callbacks.ModelPruning: None,  # it replaces parameters
    callbacks.ModelSummary: NOTHING,
    callbacks.OnExceptionCheckpoint: None,
    callbacks.ProgressBar: NOTHING,
    callbacks.RichModelSummary: NOTHING,
    callbacks.RichProgressBar: _progress,
    callbacks.SpikeDetection: None,
    callbacks.StochasticWeightAveraging: _counts_epochs("use EMAWeightAveraging"),
    callbacks.TQDMProgressBar: _progress,
    callbacks.ThroughputMonitor: None,
    callbacks.Timer: NOTHING,  # it stops the training at the end of a chunk
    callbacks.WeightAveraging: None,
    callbacks.EMAWeightAveraging: _moving_average,
}


def calls_of(callback: Callback, trainer: Any, model: Any) -> Calls | None:
    """When a callback has to be called; None for every update. Raises a UserError where it cannot work here."""
    declared: Calls | None = getattr(callback, "update_calls", None)
    if declared is not None:
        return None if _overridden(HOOKS_WITHIN, callback, Callback) else declared
    kind = next(kind for kind in type(callback).__mro__ if kind in LIGHTNINGS)
    wish = LIGHTNINGS[kind]
    wish = wish(callback, trainer, model) if callable(wish) else wish
    return None if _overridden(BATCH_HOOKS, callback, kind) else wish


def validation_interval(trainer: Any) -> int:
    """In minibatches, as Lightning counts it; 0 where validation comes at the end alone, or after a time."""
    interval = getattr(trainer, "val_check_interval", None)
    return interval if isinstance(interval, int) else 0


def calls_of_all(trainer: Any) -> Calls:
    """When the trainer and those of its callbacks that do not want every update have to be called."""
    every = validation_interval(trainer) // trainer.accumulate_grad_batches
    calls = Calls(tuple(interval for interval in (trainer.log_every_n_steps, every) if interval))
    for callback in trainer.callbacks:
        calls |= calls_of(callback, trainer, trainer.lightning_module) or NOTHING
    return calls


def why_not_chunks(trainer: Any, module_class: type, data_class: type) -> str | None:
    """Who takes part in this training and wants a call at every update, in words; None where nobody does.

    Hooks count where a model or data overrides those of these two classes. Called when the optimizers are there.
    """
    for callback in trainer.callbacks:
        if calls_of(callback, trainer, trainer.lightning_module) is None:
            hooks = _overridden((*HOOKS_WITHIN, *BATCH_HOOKS), callback, Callback)
            what = f"its {hooks[0]} called" if hooks else "its part"
            may_declare = type(callback) not in LIGHTNINGS and hooks[0] not in HOOKS_WITHIN
            unless = " unless it declares update_calls (CONTRIBUTING.md)" if may_declare else ""
            return f"{type(callback).__name__} wants {what} at every update{unless}"
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
    if validation_interval(trainer) % trainer.accumulate_grad_batches:
        return "val_check_interval is no multiple of accumulate_grad_batches"
    optimizers, schedules = trainer.optimizers, trainer.lr_scheduler_configs
    if len(optimizers) != 1:
        return f"there are {len(optimizers)} optimizers"
    closure = inspect.signature(optimizers[0].step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        return f"the optimizer {type(optimizers[0]).__name__} evaluates the loss by itself"
    if len(schedules) != 1 or (schedules[0].interval, schedules[0].frequency) != ("step", 1):
        return "there is not one learning-rate schedule, stepped after every update"
    return None


def _overridden(hooks: tuple[str, ...], instance: object, parent: type) -> list[str]:
    return [hook for hook in hooks if is_overridden(hook, instance, parent)]
