"""Counts, schedules and logs as Lightning does, for the minibatches that Lightning does not perform itself."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from multistep._schedules import schedulers_in


class Accounts:
    """Keeps a trainer's counters as `_TrainingEpochLoop.advance` and the loop within it do.

    Args:
        trainer: the trainer whose counters are kept.
        optimizer: Lightning's progress record of the optimizer.
    """

    def __init__(self, trainer: Any, optimizer: Any) -> None:
        self._trainer = trainer
        self._optimizer = optimizer

    @property
    def _loop(self) -> Any:
        return self._trainer.fit_loop.epoch_loop

    def begin(self, batch: Any) -> "OrderedDict[str, Any]":
        """Begins a minibatch that runs as Python, and returns the arguments of its step."""
        progress = self._loop.batch_progress
        progress.is_last_batch = False
        progress.increment_ready()
        self._trainer._logger_connector.on_batch_start(batch)
        progress.increment_started()
        kwargs: OrderedDict[str, Any] = self._loop._build_kwargs(OrderedDict(), batch, self._loop.batch_idx)
        return kwargs

    def skip(self) -> None:
        """Begins and ends a minibatch that is None, without performing anything."""
        progress = self._loop.batch_progress
        progress.is_last_batch = False
        progress.increment_ready()
        self._trainer._logger_connector.on_batch_start(None)
        self._loop._warning_cache.warn("train_dataloader yielded None. If this was on purpose, ignore this warning...")
        self.end(None, None)

    def end(self, batch: Any, outputs: Any) -> None:
        """Ends a minibatch: steps schedules, moves averages, and logs."""
        trainer, loop = self._trainer, self._loop
        loop.batch_progress.increment_processed()
        loop.update_lr_schedulers("step", update_plateau_schedulers=False)
        for callback in trainer.callbacks:
            if isinstance(callback, WeightAveraging):
                callback.on_train_batch_end(trainer, trainer.lightning_module, outputs, batch, loop.batch_idx)
        loop.batch_progress.increment_completed()
        trainer._logger_connector.update_train_step_metrics()
        loop.update_lr_schedulers("step", update_plateau_schedulers=True)
        if not loop._should_accumulate():
            loop._batches_that_stepped += 1

    def leave_end(self) -> None:
        """Leaves the end of the last minibatch to Lightning, because training stops after it."""
        if not self._loop._should_accumulate():
            self._loop._batches_that_stepped -= 1

    def note_chunk(
        self, ends: Sequence[bool], logs: bool, replay: Callable[[int, int], None], batch_at: Callable[[int], Any]
    ) -> None:
        """Counts minibatches that compiled code has performed, and logs where Lightning would.

        Args:
            ends: for each minibatch, whether it ends an update.
            logs: whether the step logs anything.
            replay: passes the logs of the minibatches `begin` to `end - 1` to Lightning.
            batch_at: returns the minibatch of a given number.
        """
        trainer, loop, every = self._trainer, self._loop, self._trainer.log_every_n_steps
        logs = logs and bool(trainer.loggers) and every > 0
        bounds, stepped = [], loop._batches_that_stepped
        for n, end in enumerate(ends, 1):
            stepped += end
            if n == len(ends) or (logs and end and stepped % every == 0):
                bounds.append(n)
        begin = 0
        try:
            for bound in bounds:
                first, begin = begin, bound
                self._advance(ends[first:bound])
                batch = batch_at(bound - 1)
                trainer._logger_connector.on_batch_start(batch)
                replay(first, bound)
                if bound - first > 1:
                    trainer._logger_connector.on_batch_start(batch)
                loop._batches_that_stepped -= ends[bound - 1]
                try:
                    trainer._logger_connector.update_train_step_metrics()
                finally:
                    loop._batches_that_stepped += ends[bound - 1]
        finally:  # even if a logger raised: the weights are those after all minibatches
            self._advance(ends[begin:])

    def _advance(self, ends: Sequence[bool]) -> None:
        loop, count = self._loop, len(ends)
        self.note_updates(ends, loop.batch_progress.current.ready)
        for batches in (loop.batch_progress.total, loop.batch_progress.current):
            batches.ready += count
            batches.started += count
            batches.processed += count
            batches.completed += count
        loop.batch_progress.is_last_batch = False
        loop._batches_that_stepped += sum(ends)

    def note_updates(self, ends: Sequence[bool], first: int) -> None:
        """Counts the optimizer's steps in these minibatches; `first` is the number of the first one in its epoch."""
        updates, each = sum(ends), self._trainer.accumulate_grad_batches
        begun = sum((first + n) % each == 0 for n in range(len(ends)))
        for steps in (self._optimizer.step.total, self._optimizer.step.current):
            steps.ready += updates
            steps.completed += updates
        for zeroed in (self._optimizer.zero_grad.total, self._optimizer.zero_grad.current):
            zeroed.ready += begun
            zeroed.started += begun
            zeroed.completed += begun

    def undoing(self) -> Callable[[], None]:
        """Returns a function that restores the present state of schedules, averages and parameter groups."""
        trainer, progress = self._trainer, self._loop.scheduler_progress
        objects = [each for config in trainer.lr_scheduler_configs for each in schedulers_in(config.scheduler)]
        objects += [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]
        objects += [progress.total, progress.current]
        attributes = [*map(vars, objects), *trainer.optimizers[0].param_groups]
        before = [dict(each) for each in attributes]
        contents: list[Any] = [
            (value, value.copy()) for each in before for value in each.values() if isinstance(value, (list, dict))
        ]
        rates = [(value, value.clone()) for each in before if isinstance(value := each.get("lr"), Tensor)]

        def undo() -> None:
            for now, old in zip(attributes, before, strict=True):
                now.clear()
                now.update(old)
            for value, content in contents:
                value.clear()
                value.extend(content) if isinstance(value, list) else value.update(content)
            for rate, old_rate in rates:
                rate.copy_(old_rate)

        return undo
