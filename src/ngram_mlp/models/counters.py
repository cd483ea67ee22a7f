"""Lightning's counters, which count batches, made to count updates."""

from typing import Any

__all__ = ["advance", "begin", "restore"]


def restore(trainer: Any, checkpoint: dict[str, Any]) -> None:
    """Sets `global_step` to a checkpoint's.

    One number tells where a run stands. Lightning's own account, of batches and of what a block was cut short in, is
    taken out of the checkpoint: it is not needed, as checkpoints are taken between blocks.
    """
    checkpoint.pop("loops", None)
    for tracker in _steps(trainer):
        tracker.ready = tracker.completed = checkpoint["global_step"]


def begin(trainer: Any) -> None:
    """Advances the counters of batches, which are at the first of this process, by the updates before it."""
    loop, before = trainer.fit_loop.epoch_loop, trainer.global_step
    for batches in (loop.batch_progress.total, loop.batch_progress.current):
        batches.completed = batches.processed = before
        batches.ready = batches.started = before + 1
    loop._batches_that_stepped = before


def advance(trainer: Any, updates: int) -> None:
    """Advances the counters by a block's updates; Lightning itself adds one batch to some of them.

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


def _steps(trainer: Any) -> tuple[Any, Any]:
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    return progress.total, progress.current
