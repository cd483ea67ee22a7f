"""The loop in the place of Lightning's around one minibatch: it performs others before, and keeps the same accounts.

Lightning's epoch loop fetches a minibatch, calls the hooks around it, and performs it. `StepLoop` performs the
minibatches up to the next one at which somebody has to be called; that one it leaves to Lightning, with all hooks.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning.loops.optimization.automatic import _AutomaticOptimization
from torch import Tensor
from torch.optim import Optimizer

from multistep._accounts import Accounts
from multistep._averaging import averages_of
from multistep._calls import minibatches_until_a_call, sudden_reason
from multistep._choice import Choice
from multistep._eager import is_plain, perform_plainly
from multistep._errors import CannotFuseError
from multistep._logs import QuickLog
from multistep._minibatches import Odd, Stacked, as_lightning_hands_it, take_one
from multistep._schedules import upcoming_rates
from multistep._signals import deferring_signals
from multistep._step import gradients_of
from multistep._tree import flatten, is_simple, rebuild

SECONDS = 0.25  # after which a chunk ends, so that progress is seen and signals are heard


class StepLoop(_AutomaticOptimization):
    """Performs minibatches by an engine, and Lightning's accounts of them.

    Args:
        trainer: which trains.
        owner: the callback that chose this loop; it is told which engine trains, and why.
    """

    def __init__(self, trainer: Any, owner: Any) -> None:
        super().__init__(trainer)
        self._owner = owner
        self._losses: list[Tensor] = []  # of the chunk so far
        self._logged: dict[str, list[Tensor]] = {}
        self._log: QuickLog | None = None
        self._seconds = SECONDS / 50  # a fused minibatch takes, at most
        self._layout: Any = None  # of the minibatches that are being performed

    def install(self) -> None:
        """Takes the place of Lightning's loop."""
        epoch_loop = self._epoch_loop
        self.optim_progress = epoch_loop.automatic_optimization.optim_progress  # has `global_step`
        self._accounts = Accounts(self.trainer, self.optim_progress.optimizer)
        self._choice = Choice(self.trainer, self._owner)
        epoch_loop.automatic_optimization = self
        epoch_loop.advance = self.advance

    def remove(self) -> None:
        """Gives Lightning's loop its place back."""
        epoch_loop = self._epoch_loop
        loop = _AutomaticOptimization(self.trainer)
        loop.optim_progress = self.optim_progress
        epoch_loop.automatic_optimization = loop
        epoch_loop.__dict__.pop("advance", None)

    def advance(self, fetcher: Any) -> None:
        """Performs a chunk of minibatches, and has Lightning perform the last of them."""
        epoch_loop = self._epoch_loop
        self._losses.clear()
        self._logged.clear()
        if (reason := sudden_reason(self.trainer)) is not None:
            self._choice.suspend(reason)
        elif not epoch_loop.restarting and self._choice.decided and not self._skip_backward:
            stops = self.trainer.should_stop
            performed = self._perform_ahead(fetcher)
            if performed and self.trainer.should_stop and not stops and epoch_loop.done:  # as the step itself wanted
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
        elif self._choice.engine is not None and self._owner.others_are_called(self.trainer):
            self._choice.renew(batch)
        tensors = None
        if self._choice.engine is not None and not (self._choice.source and self._choice.source.has_changed()):
            tensors, layout = self._flattened(batch)
            if layout != self._choice.engine.layout or not all(map(is_simple, tensors or [])):
                tensors = self._choice.takes(tensors, layout, batch)
        outputs = None if tensors is None else self._run_fused(tensors, optimizer, batch)
        if outputs is None:
            with self._capturing():
                outputs = super().run(optimizer, batch_idx, kwargs)
            self._keep_loss(outputs)
            if outputs and expected is not None:
                found = {"the loss": self._losses[-1][0], **gradients_of(self.trainer.lightning_module)}
                self._choice.compare_first(found, expected)
        if self._losses:
            outputs["losses"] = torch.cat([loss.reshape(-1) for loss in self._losses])
            outputs["logged"] = {name: torch.cat(values) for name, values in self._logged.items()}
        return outputs

    def finish(self) -> None:
        """Compares once more, at the end of the training."""
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
        total, before = self._epoch_loop.batch_progress.total, self._epoch_loop.batch_progress.total.completed
        try:
            while left > 0 and not (trainer.should_stop or trainer.received_sigterm):
                if self._choice.engine is not None:
                    done = self._take_fused(fetcher, left)
                elif (found := take_one(fetcher)) is not None:
                    self._perform_one(as_lightning_hands_it(trainer, found[0]))
                    done = 1
                else:
                    done = 0
                left -= done
                if not done or (trainer.world_size == 1 and time.monotonic() - started > SECONDS):
                    break  # several processes have to end it together
            if self._choice.source is not None:
                self._choice.source.raise_error()  # what Lightning fetches next would come after it
        finally:  # there may be no other end of a minibatch, after an error or where a loader's length is not true
            if total.completed > before:
                trainer._logger_connector.on_batch_end()
        return bool(total.completed > before)

    # Eager minibatches

    def _perform_one(self, batch: Any) -> None:
        """Performs one minibatch as Python, and does what `_TrainingEpochLoop.advance` does around it."""
        trainer: Any = self.trainer
        if batch is None:  # such as a collation that has dropped all examples
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
            self._losses.append((outputs["loss"] * self.trainer.accumulate_grad_batches).reshape(1))

    @contextmanager
    def _capturing(self) -> Iterator[None]:
        """Within, the module logs quickly; its numbers are noted where a hook may ask for them."""
        module: Any = self.trainer.lightning_module
        if self._log is None:
            self._log = QuickLog(module, self._logged if self._owner.others_are_called(self.trainer) else None)
        if "log" in module.__dict__:  # somebody's own
            yield
            return
        module.__dict__["log"] = self._log
        try:
            yield
        finally:
            module.__dict__.pop("log", None)

    # Fused minibatches

    def _flattened(self, batch: Any) -> tuple[list[Tensor] | None, Any]:
        try:
            return flatten(batch)
        except TypeError:
            return None, None

    def _take_fused(self, fetcher: Any, most: int) -> int:
        """Fetches and performs minibatches; returns how many, 0 where only the last of the epoch is left."""
        assert self._choice.engine is not None
        assert self._choice.source is not None
        most = min(most, self._choice.longest, max(1, int(SECONDS / self._seconds)))
        done = 0
        with deferring_signals():  # what has been fetched is performed
            for piece in self._choice.source.take(fetcher, most, self._choice.engine.layout, self._choice.engine.draws):
                done += piece.count if isinstance(piece, Stacked) else 1
                if isinstance(piece, Odd):
                    self._perform_one(piece.batch)
                    continue
                begin = 0
                while begin < piece.count:
                    rest = [tensor[begin:] for tensor in piece.tensors]
                    begin += self._perform_fused(rest, piece.count - begin)
        return done

    def _perform_fused(self, tensors: Sequence[Tensor], count: int) -> int:
        """Performs stacked minibatches, and Lightning's accounts of them; returns how many."""
        trainer: Any = self.trainer
        loop, engine = self._epoch_loop, self._choice.engine
        if engine is None:  # it has fallen back within this chunk
            self._perform_one(rebuild(self._layout, [tensor[0] for tensor in tensors]))
            return 1
        assert self._choice.schedules is not None
        self._layout = engine.layout
        each, ready, first = trainer.accumulate_grad_batches, loop.batch_progress.current.ready, trainer.global_step
        ends = [(ready + n) % each == 0 for n in range(1, count + 1)]
        optimizer = trainer.optimizers[0]
        progress = loop.scheduler_progress
        undo, configs = self._undoing(), trainer.lr_scheduler_configs
        try:
            with self._choice.schedules.stepped_ahead():
                rates = upcoming_rates(optimizer, configs, ready, ends, progress)
        except CannotFuseError as error:
            undo()
            self._choice.fall_back(f"after {first:,} updates: the schedule cannot be computed in advance: {error}")
            return 0
        wanted, count, ends = count, len(rates), ends[: len(rates)]
        started = time.perf_counter()
        with deferring_signals():
            some, due = [tensor[:count] for tensor in tensors], self._due(first, ends)
            try:
                outputs = engine.run(some, rates, torch.tensor(ends), due, ready % each != 0)
            except Exception as error:  # of whatever minibatch: performed one by one, it is raised where it belongs
                undo()
                self._choice.fall_back_from(error)
                return 0
            self._seconds = max((time.perf_counter() - started) / count, 1e-6)
            self._note(outputs, ends, tensors)
        self._keep(outputs, [tensor[count - 1] for tensor in tensors])
        if count < wanted:
            number = f"{trainer.global_step:,}"
            self._choice.fall_back(f"after {number} updates: a schedule changes more than the learning rate")
        return count

    def _run_fused(self, tensors: list[Tensor], optimizer: Optimizer, batch: Any) -> dict[str, Any] | None:
        """Performs the minibatch that Lightning hands over, of which it keeps all accounts but the optimizer's.

        Returns None where that raises, and has changed nothing.
        """
        assert self._choice.engine is not None
        assert self._choice.replay is not None
        ends = not self.trainer.fit_loop._should_accumulate()
        rates = torch.tensor([[float(group["lr"]) for group in optimizer.param_groups]], dtype=torch.float64)
        undo, due = self._undoing(), self._due(self.trainer.global_step, [ends])
        with deferring_signals():
            within = self._epoch_loop.batch_idx % self.trainer.accumulate_grad_batches != 0
            gradients = self._choice.engine.gradients(batch, within) if ends and self._choice.reads_gradients else None
            one = [tensor[None] for tensor in tensors]
            try:
                outputs = self._choice.engine.run(one, rates, torch.tensor([ends]), due, within)
            except Exception as error:
                undo()
                self._choice.fall_back_from(error)
                return None
            self._accounts.note_updates([ends], self._epoch_loop.batch_idx)
            if gradients is not None:
                for parameter, gradient in zip(self.trainer.lightning_module.parameters(), gradients, strict=True):
                    parameter.grad = gradient
        self._choice.replay(outputs, 0, 1)
        self._keep(outputs, tensors)
        captured = self._choice.engine.captured
        extra = dict(captured.extra)
        values = iter(outputs[len(outputs) - sum(isinstance(value, Tensor) for value in extra.values()) :])
        extra = {key: next(values)[0] if isinstance(value, Tensor) else value for key, value in extra.items()}
        loss = outputs[0][0]
        return {"loss": loss / self.trainer.accumulate_grad_batches, **extra}

    def _due(self, first: int, ends: Sequence[bool]) -> Tensor:
        """Whether each minibatch's update moves each average, (K, averages)."""
        averages = averages_of(self.trainer)
        due = torch.zeros(len(ends), len(averages), dtype=torch.bool)
        where = [n for n, end in enumerate(ends) if end]
        for i, average in enumerate(averages):
            moves = average.due(first, len(where))
            due[where, i] = torch.tensor(moves, dtype=torch.bool)
            if any(moves):
                average.moved(first + max(n for n, moved in enumerate(moves) if moved))
        return due

    def _note(self, outputs: list[Tensor], ends: Sequence[bool], tensors: Sequence[Tensor]) -> None:
        assert self._choice.engine is not None
        assert self._choice.replay is not None
        replay, layout = self._choice.replay, self._choice.engine.layout
        self._accounts.note_chunk(
            ends,
            bool(self._choice.engine.captured.logs),
            lambda begin, end: replay(outputs, begin, end),
            lambda number: rebuild(layout, [tensor[number] for tensor in tensors]),
        )

    def _undoing(self) -> Callable[[], None]:
        """Returns what puts all that a chunk changes back to what it is now."""
        assert self._choice.engine is not None
        restore, undo_accounts = self._choice.engine.restoring(), self._accounts.undoing()
        random_state = torch.get_rng_state()

        def undo() -> None:
            restore()
            torch.set_rng_state(random_state)
            undo_accounts()

        return undo

    def _keep(self, outputs: Sequence[Tensor], last: Sequence[Tensor]) -> None:
        assert self._choice.engine is not None
        self._losses.append(outputs[0])
        self._choice.note_last(rebuild(self._choice.engine.layout, [tensor.clone() for tensor in last]))
        rest = iter(outputs[1:])
        for log in self._choice.engine.captured.logs:
            if isinstance(log.value, Tensor):
                self._logged.setdefault(log.name, []).append(next(rest))
            elif isinstance(log.value, (int, float)):
                self._logged.setdefault(log.name, []).append(torch.full((len(outputs[0]),), float(log.value)))
