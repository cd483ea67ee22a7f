"""Lightning's own account of its loops, from which it derives `global_step` and the intervals of a run.

Its parts are not documented: only with releases that are known may a run be counted anew here.
"""

from typing import Any


def restore_counters(trainer: Any, content: dict[str, Any]) -> None:
    """Sets `global_step` to that of a checkpoint's content, and removes Lightning's own account of its loops."""
    content.pop("loops", None)  # not needed between two updates, and wrong where an exception cut a chunk short
    for tracker in _steps(trainer):
        tracker.ready = tracker.completed = content["global_step"]


def begin_counters(trainer: Any) -> None:
    """Advances the counters of batches, which start with the process, by those before the first; called within it."""
    loop, before = trainer.fit_loop.epoch_loop, trainer.global_step * trainer.accumulate_grad_batches
    for batches in (loop.batch_progress.total, loop.batch_progress.current):
        batches.completed = batches.processed = before
        batches.ready = batches.started = before + 1
    loop._batches_that_stepped = trainer.global_step


def advance_counters(trainer: Any, updates: int) -> None:
    """Advances the counters by the updates of a chunk; Lightning itself adds one to those of batches."""
    for tracker in _steps(trainer):  # from which Lightning derives `global_step`
        tracker.ready += updates
        tracker.completed += updates
    loop, more = trainer.fit_loop.epoch_loop, updates * trainer.accumulate_grad_batches - 1
    for batches in (loop.batch_progress.total, loop.batch_progress.current):  # the validation interval
        batches.ready += more
        batches.started += more
        batches.processed += more
        batches.completed += more
    loop._batches_that_stepped += updates - 1  # and the logging interval


def _steps(trainer: Any) -> tuple[Any, Any]:
    progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
    return progress.total, progress.current
