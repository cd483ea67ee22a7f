"""Determines when callbacks must be called, and what makes training go one step at a time."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pytorch_lightning import Callback, LightningModule, callbacks
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy


class Calls(NamedTuple):
    """Declares the updates at which a callback needs `on_train_batch_start` and `on_train_batch_end`, as intervals.

    A callback sets it, or a plain tuple, as its attribute `update_calls`. Updates in between are performed without
    calling the callback. When both hooks are called, they enclose one ordinary minibatch.

    Args:
        after: `on_train_batch_end` is called when `trainer.global_step` has become a multiple of one of these.
        before: `on_train_batch_start` is called right before an update that makes it a multiple of one of these.
        around: both are called around every update whose number, counted from 0, is a multiple of one of these, and
            around the last one; None for no update, not even the last.
    """

    after: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    around: tuple[int, ...] | None = None

    def next_end(self, done: int) -> int | None:
        """Returns the first update after `done` that a hook must follow, or None."""
        return min((done + every - done % every for every in self.after), default=None)

    def next_begin(self, done: int, last: int | None) -> int | None:
        """Returns the first update from `done` on that a hook must precede, or None; `last` is the run's last one."""
        numbers = [done + (-1 - done) % every for every in self.before]
        if self.around is not None:
            numbers += [done + -done % every for every in self.around]
            numbers += [last] if last is not None and last >= done else []
        return min(numbers, default=None)


def together(all_calls: Iterable[Calls]) -> Calls:
    """Returns the combined calls that several callbacks need."""
    every = list(all_calls)
    around = [calls.around for calls in every if calls.around is not None]
    return Calls(
        tuple({n for calls in every for n in calls.after}),
        tuple({n for calls in every for n in calls.before}),
        tuple({n for numbers in around for n in numbers}) if around else None,
    )


HOOKS_WITHIN = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end", *HOOKS_WITHIN)
MODULE_HOOKS = (
    *BATCH_HOOKS,
    "backward",
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "clip_gradients",
    "lr_scheduler_step",
)
NOTHING = Calls()
LONGEST = 2**31  # minibatches, if nothing must be called
SHOWS_EVERY = 1_000  # updates between redraws of a progress bar


def _checkpoints(callback: Any, trainer: Any) -> Calls:
    every: int = getattr(callback, "_every_n_train_steps", 0)
    if every <= 0:  # a time interval is checked at the end of a chunk
        return NOTHING
    # A save deferred to a validation that does not come happens at the next minibatch, even within an update.
    within = trainer.accumulate_grad_batches > 1 and trainer.global_step % every == 0
    return Calls(after=(every,), around=(1,) if within else None)


def _logging(_callback: Any, trainer: Any) -> Calls | None:
    every: int = trainer.log_every_n_steps
    if trainer.fit_loop.epoch_loop._batches_that_stepped != trainer.global_step:  # someone set it; rows follow it
        return None
    return Calls(after=(every,), before=(every,)) if every else NOTHING


def _learning_rates(callback: Any, trainer: Any) -> Calls | None:
    return NOTHING if callback.logging_interval == "epoch" else _logging(callback, trainer)


def _progress(callback: Any, _trainer: Any) -> Calls:
    # It shows multiples of its rate. Showing every update would cost more than the update.
    rate: int = getattr(callback, "refresh_rate", 0)
    return Calls(after=(rate * -(-SHOWS_EVERY // rate),)) if rate else NOTHING


def _averages(callback: Any, trainer: Any) -> Calls | None:
    return NOTHING if averages_by_itself(callback, trainer) else None


TIMING = tuple(name for name in vars(callbacks.Timer) if not name.startswith("_"))  # else it stops at a chunk's end
# The calls that Lightning's own callbacks with batch hooks need; None means every update.
KNOWN_CALLBACKS: dict[type[Callback], Callable[[Any, Any], Calls | None]] = {
    callbacks.DeviceStatsMonitor: _logging,
    callbacks.LearningRateMonitor: _learning_rates,
    callbacks.ModelCheckpoint: _checkpoints,
    callbacks.RichProgressBar: _progress,
    callbacks.TQDMProgressBar: _progress,
    callbacks.Timer: lambda callback, _trainer: None if _overridden(TIMING, callback, callbacks.Timer) else NOTHING,
    callbacks.WeightAveraging: _averages,
}


def averages_by_itself(callback: Any, trainer: Any) -> bool:
    """Returns whether an engine can average the weights itself: by a formula of two tensors, on the training device."""
    model = callback._average_model
    return (
        model is not None
        and model.avg_fn is not None
        and model.multi_avg_fn is None
        and (callback._device is None or callback._device == trainer.strategy.root_device)
    )


def is_lightnings(kind: type) -> bool:
    """Returns whether a class belongs to Lightning."""
    return kind.__module__.startswith("pytorch_lightning.")


def is_others(callback: Callback) -> bool:
    """Returns whether a callback runs code other than Lightning's, by its class or by functions that it was given."""
    return not is_lightnings(type(callback)) or any(callable(getattr(Callback, name, None)) for name in vars(callback))


def calls_of(callback: Callback, trainer: Any) -> Calls | None:
    """Returns when a callback must be called; None means at every update."""
    declared = getattr(callback, "update_calls", None)
    if declared is not None:
        if not all(each is None or isinstance(each, (tuple, list)) for each in declared):
            name = type(callback).__name__
            raise TypeError(f"{name}.update_calls is {declared}; each item must be a tuple, as in Calls(after=(100,))")
        return None if _overridden(HOOKS_WITHIN, callback, Callback) else Calls(*declared)
    kind = next((kind for kind in type(callback).__mro__ if kind in KNOWN_CALLBACKS), Callback)
    if _overridden(BATCH_HOOKS, callback, kind):
        return None
    return NOTHING if kind is Callback else KNOWN_CALLBACKS[kind](callback, trainer)


def single_step_reason(trainer: Any) -> str | None:
    """Returns the reason why training must go one step at a time, or None; the optimizers must exist already."""
    module = trainer.lightning_module
    if not module.automatic_optimization:
        return f"{type(module).__name__} uses manual optimization"
    for callback in trainer.callbacks:
        if calls_of(callback, trainer) is None:
            hooks = _overridden((*HOOKS_WITHIN, *BATCH_HOOKS), callback, Callback)
            may_declare = not is_lightnings(type(callback)) and hooks[0] not in HOOKS_WITHIN
            unless = "; declare update_calls to avoid this" if may_declare else ""
            return f"{type(callback).__name__} overrides {hooks[0]}{unless}"
    if hooks := _overridden(MODULE_HOOKS, module, LightningModule):
        return f"{type(module).__name__} overrides {hooks[0]}"
    if "dataloader_iter" in inspect.signature(module.training_step).parameters:
        return "training_step takes dataloader_iter"
    if reason := _plugin_reason(trainer):
        return reason
    if not trainer.optimizers:
        return "there is no optimizer"
    optimizer = trainer.optimizers[0]
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        return f"the optimizer {type(optimizer).__name__} evaluates the loss itself, through its closure"
    return None


def sudden_reason(trainer: Any) -> str | None:
    """Returns why Lightning must train from now on, although it did not when training began, or None."""
    module = trainer.lightning_module
    if not module.automatic_optimization:
        return f"{type(module).__name__} uses manual optimization"
    hook = next((hook for hook in MODULE_HOOKS if is_overridden(hook, module, LightningModule)), None)
    return _plugin_reason(trainer) if hook is None else f"{type(module).__name__}.{hook} was replaced"


def _plugin_reason(trainer: Any) -> str | None:
    """Returns why the strategy or the precision must be called at every update, or None."""
    strategy, precision = trainer.strategy, trainer.precision_plugin
    for part in (strategy, precision):
        kind = type(part)
        if not is_lightnings(kind):
            return f"{kind.__name__} may act at every update"
        for name, value in vars(part).items():
            if callable(value) and callable(getattr(kind, name, None)):
                return f"{kind.__name__}.{name} was replaced"
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)):
        return f"{type(strategy).__name__} exchanges gradients itself"
    if getattr(precision, "scaler", None) is not None:
        return f"precision {trainer.precision} rescales the gradients"
    return None


def _overridden(hooks: tuple[str, ...], instance: Any, parent: type) -> list[str]:
    return [hook for hook in hooks if is_overridden(hook, instance, parent)]


def is_overridden(hook: str, instance: Any, parent: type) -> bool:
    """Returns whether an object has a method other than its parent class's.

    Lightning's function of this name unwraps methods, and so takes one decorated with `functools.wraps` of the
    parent's method for that method; but it is the decorated one that is called.
    """
    own, theirs = (getattr(kind, hook, None) for kind in (type(instance), parent))
    return hook in vars(instance) or own is not theirs


def minibatches_until_a_call(trainer: Any) -> int:
    """Returns the number of minibatches up to and including the next one at which something must be called."""
    loop, each = trainer.fit_loop.epoch_loop, trainer.accumulate_grad_batches
    if trainer.should_stop or trainer.received_sigterm:
        return 1
    ready = loop.batch_progress.current.ready  # minibatches of this epoch so far
    within, update = ready % each, trainer.global_step
    counts = [LONGEST]
    last: int | None = None
    if trainer.fit_loop.max_batches != float("inf"):
        left = int(trainer.fit_loop.max_batches) - ready
        counts.append(left)
        last = update + (left + within - 1) // each
    if trainer.max_steps >= 0:
        counts.append((trainer.max_steps - update) * each - within)
        last = trainer.max_steps - 1 if last is None else min(last, trainer.max_steps - 1)
    declared = [calls_of(callback, trainer) for callback in trainer.callbacks]
    if None in declared:  # a callback was added later, such as a learning-rate finder
        return 1
    calls = together(calls for calls in declared if calls is not None)
    if (end := calls.next_end(update)) is not None:
        counts.append((end - update) * each - within)
    if (begin := calls.next_begin(update, last)) is not None:
        counts.append(1 if begin == update else (begin - update) * each - within + 1)
    counts += _until_validation(trainer, loop, ready)
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.interval == "step":
            counts.append(config.frequency - ready % config.frequency)
    return max(1, min(counts))


def _until_validation(trainer: Any, loop: Any, ready: int) -> list[int]:
    """Returns the minibatches until validation, counted as in `_TrainingEpochLoop._should_check_val_fx`, or []."""
    every: Any = trainer.val_check_batch
    if not loop._should_check_val_epoch() or every is None:
        return []
    if every == float("inf"):
        every = trainer.limit_train_batches
        return [every - ready % every] if isinstance(every, int) and every > 0 else []
    done = loop.total_batch_idx + 1 if trainer.check_val_every_n_epoch is None else ready
    return [int(every - done % every)]
