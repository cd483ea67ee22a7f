"""Replaces Lightning's loop around one minibatch with one that performs several, and keeps the same counters.

Lightning's epoch loop fetches a minibatch, calls the hooks around it, and performs it. `StepLoop` performs the
minibatches before the next one at which something must be called, and leaves that one to Lightning, with all hooks.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning.loops.optimization.automatic import _AutomaticOptimization
from torch import Tensor
from torch.optim import Optimizer

from multistep._accounts import Accounts
from multistep._calls import minibatches_until_a_call, sudden_reason
from multistep._choice import Choice
from multistep._chunk import SECONDS, Chunk
from multistep._eager import is_plain, perform_plainly
from multistep._loaders import as_lightning_hands_it, take_one
from multistep._logs import QuickLog
from multistep._step import gradients_of
from multistep._tree import flatten


class StepLoop(_AutomaticOptimization):
    """Performs minibatches with an engine, and keeps Lightning's counters of them.

    Args:
        owner: the callback that installs this loop; the engine and the reason are reported to it.
    """

    def __init__(self, trainer: Any, owner: Any) -> None:
        super().__init__(trainer)
        self._owner = owner
        self._log: QuickLog | None = None
        self._is_renewed = False  # whether changes were checked since the hooks of a minibatch ran

    def install(self) -> None:
        """Replaces Lightning's loop."""
        epoch_loop = self._epoch_loop
        self.optim_progress = epoch_loop.automatic_optimization.optim_progress  # `global_step` reads it
        self._accounts = Accounts(self.trainer, self.optim_progress.optimizer)
        self._choice = Choice(self.trainer, self._owner)
        self._chunk = Chunk(self.trainer, self._accounts, self._choice, self._perform_one)
        epoch_loop.automatic_optimization = self
        epoch_loop.advance = self.advance

    def remove(self) -> None:
        """Restores Lightning's loop."""
        epoch_loop = self._epoch_loop
        loop = _AutomaticOptimization(self.trainer)
        loop.optim_progress = self.optim_progress
        epoch_loop.automatic_optimization = loop
        epoch_loop.__dict__.pop("advance", None)

    def advance(self, fetcher: Any) -> None:
        """Performs a chunk of minibatches, the last of them by Lightning."""
        epoch_loop = self._epoch_loop
        self._chunk.clear()
        if (reason := sudden_reason(self.trainer)) is not None:
            self._choice.suspend(reason)
        elif not epoch_loop.restarting and self._choice.decided and not self._skip_backward:
            stops = self.trainer.should_stop
            performed = self._perform_ahead(fetcher)
            if performed and self.trainer.should_stop and not stops and epoch_loop.done:  # the step stopped it
                self._accounts.leave_end()
                return
        type(epoch_loop).advance(epoch_loop, fetcher)

    def run(self, optimizer: Optimizer, batch_idx: int, kwargs: "OrderedDict[str, Any]") -> dict[str, Any]:
        if self._skip_backward or sudden_reason(self.trainer) is not None:
            return super().run(optimizer, batch_idx, kwargs)
        batch = kwargs["batch"]
        expected = None
        if not self._choice.decided:
            expected = self._choice.expected(batch)
            self._choice.decide(batch)
        elif self._choice.engine and (not self._is_renewed or self._owner.others_are_called(self.trainer)):
            self._choice.renew(batch)  # for a chunk of one minibatch, or after other callbacks ran
        self._is_renewed = False
        tensors = None
        if self._choice.engine is not None and not (self._choice.source and self._choice.source.has_changed()):
            tensors, layout = self._flattened(batch)
            if tensors is None or not self._choice.engine.accepted.takes(tensors, layout):
                tensors = self._choice.takes(tensors, layout, batch)
        outputs = None if tensors is None else self._chunk.perform_last(tensors, optimizer, batch)
        if outputs is None:
            with self._capturing():
                outputs = super().run(optimizer, batch_idx, kwargs)
            self._keep_loss(outputs)
            if outputs and expected is not None:
                loss = self._chunk.losses[-1].reshape(expected["the loss"].shape)
                found = {"the loss": loss, **gradients_of(self.trainer.lightning_module)}
                self._choice.compare_first(found, expected)
        if self._chunk.losses:
            outputs["losses"] = torch.cat([loss.reshape(-1) for loss in self._chunk.losses])
            outputs["logged"] = {name: torch.cat(values) for name, values in self._chunk.logged.items()}
        return outputs

    def finish(self) -> None:
        """Compares once more, at the end of training."""
        self._choice.compare_last()

    @property
    def _epoch_loop(self) -> Any:
        return self.trainer.fit_loop.epoch_loop

    # The minibatches before the one that Lightning performs

    def _perform_ahead(self, fetcher: Any) -> bool:
        left = minibatches_until_a_call(self.trainer) - 1
        started = time.monotonic()
        trainer: Any = self.trainer
        if left > 0 and self._choice.engine is not None:
            self._choice.renew(None)
            self._is_renewed = True
            if not self._choice.decided:  # until Lightning has performed another update
                return False
        total, before = self._epoch_loop.batch_progress.total, self._epoch_loop.batch_progress.total.completed
        try:
            while left > 0 and not (trainer.should_stop or trainer.received_sigterm):
                if self._choice.engine is not None:
                    done = self._chunk.take(fetcher, left)
                elif (found := take_one(fetcher)) is not None:
                    self._perform_one(as_lightning_hands_it(trainer, found[0]))
                    done = 1
                else:
                    done = 0
                left -= done
                if not done or (trainer.world_size == 1 and time.monotonic() - started > SECONDS):
                    break  # several processes must end it together
            if self._choice.source is not None:
                self._choice.source.raise_error()  # before Lightning fetches the next minibatch
        finally:  # no minibatch by Lightning may follow, after an error or if a loader's length is wrong
            if total.completed > before:
                trainer._logger_connector.on_batch_end()
        return bool(total.completed > before)

    # Eager minibatches

    def _perform_one(self, batch: Any) -> None:
        """Performs one minibatch as Python, including what `_TrainingEpochLoop.advance` does around it."""
        trainer: Any = self.trainer
        if batch is None:  # from a collation that dropped all examples, for example
            self._accounts.skip()
            return
        kwargs = self._accounts.begin(batch)
        with self._capturing():
            if is_plain(trainer):
                outputs = perform_plainly(trainer, kwargs, self.optim_progress.optimizer)
            else:
                outputs = super().run(trainer.optimizers[0], self._epoch_loop.batch_idx, kwargs)
        self._keep_loss(outputs)
        self._accounts.end(batch, outputs)

    def _keep_loss(self, outputs: Any) -> None:
        if outputs:
            self._chunk.losses.append((outputs["loss"] * self.trainer.accumulate_grad_batches).reshape(1))

    @contextmanager
    def _capturing(self) -> Iterator[None]:
        """Makes the module log quickly within the block; keeps its numbers if a hook may ask for them."""
        module: Any = self.trainer.lightning_module
        if self._log is None:
            self._log = QuickLog(module)
        self._log.noted = self._chunk.logged if self._owner.others_are_called(self.trainer) else None
        if "log" in module.__dict__:  # set by the user
            yield
            return
        module.__dict__["log"] = self._log
        try:
            yield
        finally:
            module.__dict__.pop("log", None)

    def _flattened(self, batch: Any) -> tuple[list[Tensor] | None, Any]:
        try:
            return flatten(batch)
        except TypeError:
            return None, None
