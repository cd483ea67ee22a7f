"""Lightning's trainer made to count updates: chunks of them, who is called in between, counters, refused options.

A callback of any kind declares when it needs its batch hooks by an attribute `update_calls`, a `Calls`. Lightning's own
callbacks, which cannot, are listed in `_calls_of`.
"""

from dataclasses import dataclass
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from ngram_mlp.errors import UserError


@dataclass(frozen=True)
class Calls:
    """The updates at which a callback needs `on_train_batch_start` and `on_train_batch_end`.

    Between two of them, updates are trained in chunks, with one call of each hook for a whole chunk.

    Args:
        after: numbers of updates; `on_train_batch_end` is called when `trainer.global_step` is a multiple of one of them.
        around: numbers of updates; every update that is a multiple of one of them, and the last update, is a chunk of its
            own, so that the hooks are called right before and right after it. None: no update needs to be.
    """

    after: tuple[int, ...] = ()
    around: tuple[int, ...] | None = None

    def __or__(self, other: "Calls") -> "Calls":
        """What two callbacks need together."""
        around = None if self.around is other.around is None else (*(self.around or ()), *(other.around or ()))
        return Calls((*self.after, *other.after), around)


@dataclass(frozen=True)
class Chunking:
    """Where the chunks of a run end.

    Args:
        calls: what all callbacks and the trainer need together.
        updates: the updates of the run.
        longest: the most updates in a chunk.
    """

    calls: Calls
    updates: int
    longest: int

    def end(self, begin: int) -> int:
        """The update before which a chunk ends that begins with the update `begin`."""
        around = self.calls.around
        if around is not None and (begin == self.updates - 1 or any(begin % every == 0 for every in around)):
            return begin + 1
        ends = [begin + every - begin % every for every in (*self.calls.after, *(around or ()), self.longest)]
        return min(*ends, self.updates if around is None else self.updates - 1)


def longest_chunk(batch_size: int) -> int:
    """The most minibatches in a chunk: 1,000, or fewer of large ones, so that progress is still seen."""
    return max(1, min(1_000, 2**16 // batch_size))


def chunking(trainer: Any, batch_size: int) -> Chunking:
    """Where chunks end so that the trainer and its callbacks are called at every update that they need."""
    intervals = trainer.log_every_n_steps, trainer.val_check_interval
    calls = Calls(tuple(every for every in intervals if isinstance(every, int) and every > 0))
    for callback in trainer.callbacks:
        calls |= _calls_of(callback)
    return Chunking(calls, trainer.max_steps, longest_chunk(batch_size))


def _calls_of(callback: Any) -> Calls:
    if isinstance(callback, ModelCheckpoint):
        every = callback._every_n_train_steps
        return Calls((every,) if every else ())
    calls: Calls = getattr(callback, "update_calls", Calls())
    return calls


def restore_counters(trainer: Any, content: dict[str, Any]) -> None:
    """Sets `global_step` to that of a checkpoint's content.

    One number tells where a run stands. Lightning's own account of its loops is removed from the content: checkpoints are
    taken between two chunks, so it is not needed, and after a chunk that an exception cut short it would be wrong.
    """
    content.pop("loops", None)
    for tracker in _steps(trainer):
        tracker.ready = tracker.completed = content["global_step"]


def begin_counters(trainer: Any) -> None:
    """Advances the counters of batches, which are at the first of this process, by the updates before it."""
    loop, before = trainer.fit_loop.epoch_loop, trainer.global_step
    for batches in (loop.batch_progress.total, loop.batch_progress.current):
        batches.completed = batches.processed = before
        batches.ready = batches.started = before + 1
    loop._batches_that_stepped = before


def advance_counters(trainer: Any, updates: int) -> None:
    """Advances the counters by the updates of a chunk; Lightning itself adds one batch to some of them.

    Lightning derives `global_step` from the first, the validation interval from the second and the logging interval
    from the third, so all of them count updates from here on.
    """
    for tracker in _steps(trainer):
        tracker.ready += updates
        tracker.completed += updates
    loop = trainer.fit_loop.epoch_loop
    for batches in (loop.batch_progress.total, loop.batch_progress.current):
        batches.ready += updates - 1
        batches.started += updates - 1
        batches.processed += updates - 1
        batches.completed += updates - 1
    loop._batches_that_stepped += updates - 1
    if trainer.global_step >= trainer.max_steps:
        # The trainer validates and logs when it is told to stop, also where no interval divides max_steps.
        trainer.should_stop = True


def leave_gradients_to_the_engine(trainer: Any) -> None:
    """Keeps DDP's wrapper from synchronizing: it expects one backward pass a call, and a chunk has one an update."""
    wrapper = trainer.strategy.model
    if isinstance(wrapper, DistributedDataParallel):
        wrapper.require_backward_grad_sync = False


def refuse_options_without_meaning(trainer: Any) -> None:
    """Minibatches are drawn with replacement, in one endless epoch, by processes that average their gradients.

    Raises:
        UserError: an option of the trainer counts epochs, or the engines do not honour it.
    """
    if trainer.max_steps < 0:
        raise UserError("give the number of updates, 0 or more", max_steps=trainer.max_steps)
    if trainer.world_size > 1 and not (
        isinstance(trainer.strategy, DDPStrategy) and trainer.strategy._start_method == "popen"
    ):
        raise UserError(
            "several processes train by ddp alone; use ddp, or 1 device", strategy=trainer.strategy.__class__.__name__
        )
    if trainer.fast_dev_run:  # Lightning derives the options below from it
        return
    refusals = {
        "max_epochs": (trainer.max_epochs not in (None, -1), "there are no epochs; use max_steps"),
        "limit_train_batches": (trainer.limit_train_batches != 1.0, "there are no epochs; use max_steps"),
        "overfit_batches": (trainer.overfit_batches != 0, "there are no epochs; use a small corpus"),
        "val_check_interval": (
            not isinstance(trainer.val_check_interval, int),
            "give the number of updates between validations, a whole number",
        ),
        "precision": (trainer.precision == "16-mixed", "gradients are not rescaled; use 32-true or bf16-mixed"),
    }
    for option, (refused, remedy) in refusals.items():
        if refused:
            raise UserError(remedy, **{option: getattr(trainer, option)})


def _steps(trainer: Any) -> tuple[Any, Any]:
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    return progress.total, progress.current
