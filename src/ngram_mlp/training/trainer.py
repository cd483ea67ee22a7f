"""Lightning's trainer, whose counters count batches, made to count updates; and its options that have no meaning then."""

from typing import Any

from pytorch_lightning.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from ngram_mlp.errors import UserError


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
