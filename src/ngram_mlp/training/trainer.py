"""Lightning's trainer made to count updates: chunks of them, calls between chunks, counters, refused options.

A callback declares when it needs its batch hooks by an attribute `update_calls`, a `Calls`.
"""

from dataclasses import dataclass
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from ngram_mlp.errors import UserError


@dataclass(frozen=True)
class Calls:
    """The intervals, in updates, at which a callback needs `on_train_batch_start` and `on_train_batch_end`.

    Updates are trained in chunks, with one call of each hook per chunk. A chunk ends where `trainer.global_step` is a
    multiple of an interval in `after`. Every update that is a multiple of an interval in `around`, and the last one, is
    a chunk of its own, so that the hooks are called right before and right after it; with None, no update is.
    """

    after: tuple[int, ...] = ()
    around: tuple[int, ...] | None = None

    def __or__(self, other: "Calls") -> "Calls":
        """What two callbacks need together."""
        around = None if self.around is other.around is None else (*(self.around or ()), *(other.around or ()))
        return Calls((*self.after, *other.after), around)


@dataclass(frozen=True)
class Chunking:
    """Where the chunks of a run end."""

    calls: Calls  # what all callbacks and the trainer need together
    updates: int  # in the run
    longest: int  # the most updates in a chunk

    def end(self, begin: int) -> int:
        """The update before which the chunk that begins with the update `begin` ends."""
        around = self.calls.around
        if around is not None and (begin == self.updates - 1 or any(begin % every == 0 for every in around)):
            return begin + 1
        ends = [begin + every - begin % every for every in (*self.calls.after, *(around or ()), self.longest)]
        return min(*ends, self.updates if around is None else self.updates - 1)


def longest_chunk(batch_size: int) -> int:
    """The most minibatches in a chunk: 1,000, or fewer if they are large, so that progress can still be seen."""
    return max(1, min(1_000, 2**16 // batch_size))


def chunking(trainer: Any, batch_size: int) -> Chunking:
    """Chunks between which the trainer and its callbacks are called at every update that they need."""
    # Lightning's own callbacks declare nothing.
    savers = [callback._every_n_train_steps for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint)]
    intervals = (trainer.log_every_n_steps, trainer.val_check_interval, *savers)
    calls = Calls(tuple(every for every in intervals if isinstance(every, int) and every > 0))
    for callback in trainer.callbacks:
        calls |= getattr(callback, "update_calls", Calls())
    return Chunking(calls, trainer.max_steps, longest_chunk(batch_size))


def restore_counters(trainer: Any, content: dict[str, Any]) -> None:
    """Sets `global_step` to that of a checkpoint's content, and removes Lightning's own account of its loops."""
    content.pop("loops", None)  # not needed between two chunks, and wrong where an exception cut a chunk short
    for tracker in _steps(trainer):
        tracker.ready = tracker.completed = content["global_step"]


def begin_counters(trainer: Any) -> None:
    """Advances the counters of batches, which start with the process, by the updates before it."""
    loop, before = trainer.fit_loop.epoch_loop, trainer.global_step
    for batches in (loop.batch_progress.total, loop.batch_progress.current):
        batches.completed = batches.processed = before
        batches.ready = batches.started = before + 1
    loop._batches_that_stepped = before


def advance_counters(trainer: Any, updates: int) -> None:
    """Advances the counters by the updates of a chunk; Lightning itself adds one to those of batches."""
    for tracker in _steps(trainer):  # from which Lightning derives `global_step`
        tracker.ready += updates
        tracker.completed += updates
    loop = trainer.fit_loop.epoch_loop
    for batches in (loop.batch_progress.total, loop.batch_progress.current):  # the validation interval
        batches.ready += updates - 1
        batches.started += updates - 1
        batches.processed += updates - 1
        batches.completed += updates - 1
    loop._batches_that_stepped += updates - 1  # and the logging interval
    if trainer.global_step >= trainer.max_steps:
        # Told to stop, the trainer validates and logs, even where no interval divides max_steps.
        trainer.should_stop = True


def leave_gradients_to_the_engine(trainer: Any) -> None:
    """Keeps DDP's wrapper from synchronizing: it expects one backward pass per call, a chunk has one per update."""
    if isinstance(trainer.strategy.model, DistributedDataParallel):
        trainer.strategy.model.require_backward_grad_sync = False


def refuse_options_without_meaning(trainer: Any) -> None:
    """Raises a UserError where an option counts epochs (there is one, which has no end) or no engine honours it."""
    strategy = trainer.strategy
    if trainer.world_size > 1 and not (isinstance(strategy, DDPStrategy) and strategy._start_method == "popen"):
        raise UserError("several processes train only with ddp; use it, or 1 device", strategy=type(strategy).__name__)
    if trainer.fast_dev_run:  # Lightning derives the options below from it
        return
    refusals = {
        "max_steps": (trainer.max_steps < 0, "give the number of updates, 0 or more"),
        "max_epochs": (trainer.max_epochs not in (None, -1), "there are no epochs; use max_steps"),
        "limit_train_batches": (trainer.limit_train_batches != 1.0, "there are no epochs; use max_steps"),
        "overfit_batches": (trainer.overfit_batches != 0, "there are no epochs; use a small corpus"),
        "val_check_interval": (not isinstance(trainer.val_check_interval, int), "give a whole number of updates"),
        "precision": (trainer.precision == "16-mixed", "gradients are not rescaled; use 32-true or bf16-mixed"),
    }
    for option, (refused, remedy) in refusals.items():
        if refused:
            raise UserError(remedy, **{option: getattr(trainer, option)})


def _steps(trainer: Any) -> tuple[Any, Any]:
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    return progress.total, progress.current
