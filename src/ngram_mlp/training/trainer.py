"""Lightning's trainer made to count updates: where chunks end, when it validates and logs, which options it refuses."""

from dataclasses import dataclass
from typing import Any

from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from ngram_mlp.errors import LARGEST_NUMBER, UserError
from ngram_mlp.training.calls import Calls, calls_of, validation_interval


@dataclass(frozen=True)
class Chunking:
    """Where the chunks of a run end."""

    calls: Calls  # what all callbacks and the trainer need together
    updates: int  # in the run
    longest: int  # the most updates in a chunk
    minibatches: int = 1  # in an update
    singly: bool = False  # whether minibatches are handed over one by one, as ordinary training needs them

    def end(self, begin: int) -> int:
        """The update before which the chunk that begins with the update `begin` ends."""
        around = self.calls.around
        if around is not None and (begin == self.updates - 1 or any(begin % every == 0 for every in around)):
            return begin + 1
        ends = [begin + every - begin % every for every in (*self.calls.after, *(around or ()), self.longest)]
        ends += [begin + 1 + (every - 2 - begin) % every for every in self.calls.before]
        return min(*ends, self.updates if around is None else self.updates - 1)


def longest_chunk(batch_size: int) -> int:
    """The most minibatches in a chunk: 1,000, or fewer if they are large, so that progress can still be seen."""
    return max(1, min(1_000, 2**16 // batch_size))


def validates_at(trainer: Any, update: int) -> bool:
    """Whether an interval has the trainer validate when so many updates are done, or its last minibatch does."""
    if not hasattr(trainer, "val_check_interval"):  # it is a time
        return False
    interval = validation_interval(trainer)
    return interval == 0 or update * int(trainer.accumulate_grad_batches) % interval == 0


def log_at(trainer: Any, update: int, metrics: dict[str, Tensor]) -> None:
    """Logs metrics at a number of updates done; Lightning's own axis is one behind, and `self.log` has no other."""
    if trainer.sanity_checking:
        return
    trainer.logged_metrics.update(metrics)
    numbers = {name: value.item() for name, value in metrics.items()}
    for logger in trainer.loggers:
        logger.log_metrics(numbers, step=update)
        logger.save()


def between_updates(trainer: Any, batch_idx: int) -> bool:
    """Whether a minibatch is the first of an update, and not one of several others that an update accumulates."""
    return batch_idx % int(trainer.accumulate_grad_batches) == 0


def refuse_options_without_meaning(trainer: Any, model: Any) -> None:
    """Raises a UserError where an option or a callback counts epochs (there is one, without an end) or cannot work."""
    for callback in trainer.callbacks:
        calls_of(callback, trainer, model)
    strategy = trainer.strategy
    starts = getattr(strategy, "_start_method", "popen")
    if starts != "popen" or not (isinstance(strategy, DDPStrategy) or trainer.world_size == 1):
        remedy = "processes are started by ddp alone; use it, or auto with 1 device"
        raise UserError(remedy, strategy=type(strategy).__name__)
    if trainer.fast_dev_run:  # Lightning derives the options below from it
        return
    validates_every = getattr(trainer, "val_check_interval", None)  # absent where it is a time
    refusals = {
        "accumulate_grad_batches": (trainer.accumulate_grad_batches < 1, "give a number of minibatches, at least 1"),
        "max_steps": (not 0 <= trainer.max_steps <= LARGEST_NUMBER, "give the number of updates, 0 or more"),
        "max_epochs": (trainer.max_epochs not in (None, -1), "there are no epochs; use max_steps"),
        "min_epochs": (trainer.min_epochs not in (None, 0, 1), "there are no epochs; use min_steps"),
        "overfit_batches": (trainer.overfit_batches != 0, "there are no epochs; use a small corpus"),
        "limit_train_batches": (trainer.limit_train_batches != 1.0, "there are no epochs; use max_steps"),
        "val_check_interval": (
            isinstance(validates_every, float) and validates_every != 1.0,
            "there are no epochs; give a whole number of updates",
        ),
    }
    for option, (refused, remedy) in refusals.items():
        if refused:
            raise UserError(remedy, **{option: getattr(trainer, option)})
