"""The loop in the place of Lightning's around one minibatch: it performs others before, and keeps the same accounts.

Lightning's epoch loop fetches a minibatch, calls the hooks around it, and performs it. `StepLoop` performs the
minibatches up to the next one at which somebody has to be called; that one it leaves to Lightning, with all hooks.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from pytorch_lightning.callbacks import StochasticWeightAveraging
from pytorch_lightning.loops.optimization.automatic import _AutomaticOptimization
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric

from multistep._accounts import Accounts
from multistep._averaging import averages_of, own_formula
from multistep._calls import minibatches_until_a_call, sudden_reason
from multistep._check import are_close
from multistep._eager import is_plain, perform_plainly
from multistep._errors import CannotFuseError, EngineMismatchError
from multistep._fused import FusedEngine
from multistep._guards import reading_nothing
from multistep._logs import QuickLog, Replay
from multistep._minibatches import (
    Odd,
    Source,
    Stacked,
    as_lightning_hands_it,
    longest_chunk,
    refused_data,
    take_one,
)
from multistep._reach import reads_gradients
from multistep._schedules import changes_more_than_the_learning_rate, is_of_ones_own, upcoming_rates
from multistep._signals import deferring_interrupts
from multistep._step import Rule, gradients_of, rehearse
from multistep._tree import flatten, is_simple, rebuild

SECONDS = 0.25  # after which a chunk ends, so that progress is seen and signals are heard
CHECKED_EVERY = 10_000  # updates after which compiled ones are compared with the module's own step again
COMPILATIONS = 3  # in a run, because something has changed
OTHERS = 5  # minibatches of another layout in turn that Lightning hands over, until one is compiled for


class StepLoop(_AutomaticOptimization):
    """Performs minibatches by an engine, and Lightning's accounts of them.

    Args:
        trainer: which trains.
        owner: the callback that chose this loop; it is told which engine trains, and why.
    """

    def __init__(self, trainer: Any, owner: Any) -> None:
        super().__init__(trainer)
        self._owner = owner
        self._engine: FusedEngine | None = None
        self._decided = False
        self._compared = False  # whether the first minibatch was compared with a copy's
        self._source: Source | None = None
        self._replay: Replay | None = None
        self._losses: list[Tensor] = []  # of the chunk so far
        self._logged: dict[str, list[Tensor]] = {}
        self._log: QuickLog | None = None
        self._seconds = SECONDS / 50  # a fused minibatch takes, at most
        self._checked_at = 0
        self._compilations = 0
        self._last_batch: Any = None
        self._layout: Any = None
        self._longest = 1
        self._others = 0
        self._loaders: Any = None  # where refused_data has looked
        self._reads_gradients = False  # whether a hook does, after an update

    def install(self) -> None:
        """Takes the place of Lightning's loop."""
        epoch_loop = self._epoch_loop
        self.optim_progress = epoch_loop.automatic_optimization.optim_progress  # has `global_step`
        self._accounts = Accounts(self.trainer, self.optim_progress.optimizer)
        self._first = self.trainer.global_step  # before the optimizer's first update
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
            self._engine, self._decided = None, False  # Lightning's own loop, until that ends
            if self._owner.reason != reason:
                self._owner.leave_to_lightning(reason)
        elif not epoch_loop.restarting and self._decided and not self._skip_backward:
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
        if not self._decided:
            expected = self._expected(batch)
            self._decide(batch)
        elif self._engine is not None and self._owner.others_are_called(self.trainer):
            self._renew(batch)
        tensors = None
        if self._engine is not None:
            tensors, layout = self._flattened(batch)
            if layout != self._engine.layout or not all(map(is_simple, tensors or [])):
                tensors = self._other_layout(tensors, layout, batch)
        outputs = None if tensors is None else self._run_fused(tensors, optimizer, batch)
        if outputs is None:
            with self._capturing():
                outputs = super().run(optimizer, batch_idx, kwargs)
            self._keep_loss(outputs)
            if outputs and expected is not None:
                found = {"the loss": self._losses[-1][0], **gradients_of(self.trainer.lightning_module)}
                if not are_close(found, expected):
                    self._decided = True
                    self._fall_back("on a copy of the module, training_step computes something else")
        if self._losses:
            outputs["losses"] = torch.cat([loss.reshape(-1) for loss in self._losses])
            outputs["logged"] = {name: torch.cat(values) for name, values in self._logged.items()}
        return outputs

    def finish(self) -> None:
        """Compares once more, at the end of the training."""
        if self._engine is not None and self._last_batch is not None:
            self._compare(self._last_batch)

    @property
    def _epoch_loop(self) -> Any:
        return self.trainer.fit_loop.epoch_loop

    @property
    def _has_begun(self) -> bool:
        """Whether the optimizer has performed an update itself, here or before an interruption."""
        return bool(self.trainer.global_step > self._first or self.trainer.ckpt_path is not None)

    # The minibatches before the one that Lightning performs

    def _perform_ahead(self, fetcher: Any) -> bool:
        left = minibatches_until_a_call(self.trainer) - 1
        started = time.monotonic()
        trainer: Any = self.trainer
        if left > 0 and self._engine is not None:
            self._renew(None)
        total, before = self._epoch_loop.batch_progress.total, self._epoch_loop.batch_progress.total.completed
        try:
            while left > 0 and not (trainer.should_stop or trainer.received_sigterm):
                if self._engine is not None:
                    done = self._take_fused(fetcher, left)
                elif (found := take_one(fetcher)) is not None:
                    self._perform_one(as_lightning_hands_it(trainer, found[0]))
                    done = 1
                else:
                    done = 0
                left -= done
                if not done or (trainer.world_size == 1 and time.monotonic() - started > SECONDS):
                    break  # several processes have to end it together
        finally:  # there may be no other end of a minibatch, after an error or where a loader's length is not true
            if total.completed > before:
                trainer._logger_connector.on_batch_end()
        return bool(total.completed > before)

    # Eager minibatches

    def _perform_one(self, batch: Any) -> None:
        """Performs one minibatch as Python, and does what `_TrainingEpochLoop.advance` does around it."""
        trainer: Any = self.trainer
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

    def _other_layout(self, tensors: list[Tensor] | None, layout: Any, batch: Any) -> list[Tensor] | None:
        """Returns None where a minibatch is to be performed as Python; many of them in turn are compiled for anew."""
        self._others += 1
        if self._others < OTHERS:
            return None
        try:
            self._compile_anew(batch)
        except CannotFuseError as error:
            self._fall_back(f"after {self.trainer.global_step:,} updates: {error}")
        self._others = 0
        return tensors if self._engine is not None and layout == self._engine.layout else None

    def _expected(self, batch: Any) -> dict[str, Tensor] | None:
        """The loss and gradients of the run's first minibatch by a copy, as Lightning will perform it on the module.

        A step may look itself up, by its identity say, and be another one on every copy.
        """
        trainer: Any = self.trainer
        if self._compared or self._owner.wanted == "eager" or self._has_begun or trainer.world_size > 1:
            return None
        self._compared = True
        with suppress(Exception):  # each is reported when it is compiled
            context, random_state = trainer.precision_plugin.train_step_context, torch.get_rng_state()
            module, optimizer = trainer.lightning_module, trainer.optimizers[0]
            return rehearse(module, optimizer, Rule.of(trainer), batch, context, 1, random_state)[1]
        return None

    def _decide(self, batch: Any) -> None:
        """Chooses the engine, once the optimizer has performed an update itself."""
        wanted = self._owner.wanted
        if wanted == "eager":
            self._decided = True
            self._owner.tell("eager", "as asked" if self._owner.engine == "eager" else "as before the interruption")
        elif self._has_begun:
            self._decided = True
            try:
                self._engine = self._compiled(batch, wanted)
            except CannotFuseError as error:
                self._fall_back(str(error))
            else:
                if self._engine is not None:
                    self._owner.tell("fused", None)

    def _compiled(self, batch: Any, wanted: str) -> FusedEngine | None:
        trainer: Any = self.trainer
        if trainer.world_size > 1:
            raise CannotFuseError("several processes exchange their gradients at every update")
        if reason := refused_data(trainer):
            raise CannotFuseError(reason)
        if (average := own_formula(trainer)) is not None:
            raise CannotFuseError(f"the average {average} is moved by a formula or at times of its own")
        for config in trainer.lr_scheduler_configs:
            if changes_more_than_the_learning_rate(config.scheduler):
                raise CannotFuseError(f"the schedule {type(config.scheduler).__name__} changes the momentum, too")
        engine = FusedEngine(
            trainer.lightning_module,
            trainer.optimizers[0],
            Rule.of(trainer),
            averages_of(trainer),
            batch,
            trainer.precision_plugin.train_step_context,
            self._owner.say,
        )
        if wanted == "auto":
            left, pays_from = self._updates_left(), engine.pays_from()
            if left < pays_from:
                self._owner.tell("eager", f"compiling pays from {pays_from:,} updates on, {left:,.0f} are to come")
                return None
        engine.compile(self._owner.candidates(trainer, batch))
        self._owner.note_threads()
        self._replay = Replay(trainer.lightning_module, engine.captured)
        self._replay.rehearse(engine.trial_outputs())
        self._source = Source(trainer)
        self._layout = engine.layout
        self._longest = longest_chunk(engine.layout, engine.captured.tensors())
        self._last_batch, self._checked_at = batch, trainer.global_step
        self._loaders = trainer.fit_loop._combined_loader
        swa = any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks)
        others = [
            c for c in trainer.callbacks if not type(c).__module__.startswith(("pytorch_lightning.", "multistep."))
        ]
        # Lightning's epoch of statistics after that of weights begins with the gradients that are left.
        self._reads_gradients = swa or any(map(reads_gradients, [*others, trainer.lightning_module]))
        return engine

    def _updates_left(self) -> float:
        trainer: Any = self.trainer
        left = float("inf") if trainer.max_steps < 0 else trainer.max_steps - trainer.global_step
        if trainer.max_epochs not in (None, -1):
            minibatches = (trainer.max_epochs - trainer.current_epoch) * trainer.fit_loop.max_batches
            minibatches -= self._epoch_loop.batch_progress.current.completed
            left = min(left, minibatches // trainer.accumulate_grad_batches)
        return float(left)

    def _renew(self, batch: Any) -> None:
        """Compiles anew where something has changed that compiled code depends on, or falls back; compares at times."""
        assert self._engine is not None
        engine, trainer = self._engine, self.trainer
        batch = self._last_batch if batch is None else batch
        try:
            if self._loaders is not (loaders := trainer.fit_loop._combined_loader) and (
                reason := refused_data(trainer)
            ):
                raise CannotFuseError(reason)
            self._loaders = loaders
            if engine.is_outdated(trainer.optimizers[0], Rule.of(trainer), averages_of(trainer)) or engine.changed():
                self._compile_anew(batch)
        except CannotFuseError as error:
            self._fall_back(f"after {trainer.global_step:,} updates: {error}")
            return
        if trainer.global_step - self._checked_at >= CHECKED_EVERY:
            self._compare(batch)

    def _compile_anew(self, batch: Any) -> None:
        self._compilations += 1
        if self._compilations > COMPILATIONS:
            raise CannotFuseError("the module, the optimizer or the minibatches change again and again")
        self._engine = self._compiled(batch, "fused")

    def _compare(self, batch: Any) -> None:
        assert self._engine is not None
        trainer = self.trainer
        try:
            difference = self._engine.check(batch)
        except CannotFuseError as error:  # nothing that is watched has changed, and yet it was possible before
            difference = f"what it does: {error}"
        if difference:
            doubt = f"updates {self._checked_at + 1:,} to {trainer.global_step:,} are in doubt"
            raise EngineMismatchError(
                f"engine fused: it differs from training_step in {difference}; {doubt}; use engine eager"
            )
        self._checked_at = trainer.global_step

    def _fall_back(self, reason: str) -> None:
        self._engine = None
        self._owner.fall_back(reason)

    def _fall_back_from(self, error: Exception) -> None:
        line = (str(error).splitlines() or [""])[0]
        self._fall_back(f"after {self.trainer.global_step:,} updates: {type(error).__name__}: {line}")

    def _take_fused(self, fetcher: Any, most: int) -> int:
        """Fetches and performs minibatches; returns how many, 0 where only the last of the epoch is left."""
        assert self._engine is not None
        assert self._source is not None
        most = min(most, self._longest, max(1, int(SECONDS / self._seconds)))
        done = 0
        with deferring_interrupts():  # what has been fetched is performed
            for piece in self._source.take(fetcher, most, self._engine.layout, self._engine.draws):
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
        loop, engine = self._epoch_loop, self._engine
        if engine is None:  # it has fallen back within this chunk
            self._perform_one(rebuild(self._layout, [tensor[0] for tensor in tensors]))
            return 1
        self._layout = engine.layout
        each, ready, first = trainer.accumulate_grad_batches, loop.batch_progress.current.ready, trainer.global_step
        ends = [(ready + n) % each == 0 for n in range(1, count + 1)]
        optimizer = trainer.optimizers[0]
        progress = loop.scheduler_progress
        undo, configs = self._undoing(), trainer.lr_scheduler_configs
        try:
            with self._ahead_of_time():
                rates = upcoming_rates(optimizer, configs, ready, ends, progress)
        except CannotFuseError as error:
            undo()
            self._fall_back(f"after {first:,} updates: the schedule cannot be computed in advance: {error}")
            return 0
        wanted, count, ends = count, len(rates), ends[: len(rates)]
        started = time.perf_counter()
        with deferring_interrupts():
            some, due = [tensor[:count] for tensor in tensors], self._due(first, ends)
            try:
                outputs = engine.run(some, rates, torch.tensor(ends), due, ready % each != 0)
            except Exception as error:  # of whatever minibatch: performed one by one, it is raised where it belongs
                undo()
                self._fall_back_from(error)
                return 0
            self._seconds = max((time.perf_counter() - started) / count, 1e-6)
            self._note(outputs, ends, tensors)
        self._keep(outputs, [tensor[count - 1] for tensor in tensors])
        if count < wanted:
            self._fall_back(f"after {trainer.global_step:,} updates: a schedule changes more than the learning rate")
        return count

    def _ahead_of_time(self) -> AbstractContextManager[None]:
        """The context in which schedules are stepped before the updates that they follow."""
        trainer: Any = self.trainer
        if not any(is_of_ones_own(config.scheduler) for config in trainer.lr_scheduler_configs):
            return nullcontext()
        assert self._engine is not None
        metrics = [child for child in trainer.lightning_module.modules() if isinstance(child, Metric)]
        states = [getattr(metric, name) for metric in metrics for name in metric._defaults]
        return reading_nothing([*self._engine.state(), *(s for s in states if isinstance(s, Tensor))])

    def _run_fused(self, tensors: list[Tensor], optimizer: Optimizer, batch: Any) -> dict[str, Any] | None:
        """Performs the minibatch that Lightning hands over, of which it keeps all accounts but the optimizer's.

        Returns None where that raises, and has changed nothing.
        """
        assert self._engine is not None
        assert self._replay is not None
        ends = not self.trainer.fit_loop._should_accumulate()
        rates = torch.tensor([[float(group["lr"]) for group in optimizer.param_groups]], dtype=torch.float64)
        undo, due = self._undoing(), self._due(self.trainer.global_step, [ends])
        with deferring_interrupts():
            within = self._epoch_loop.batch_idx % self.trainer.accumulate_grad_batches != 0
            gradients = self._engine.gradients(batch, within) if ends and self._reads_gradients else None
            one = [tensor[None] for tensor in tensors]
            try:
                outputs = self._engine.run(one, rates, torch.tensor([ends]), due, within)
            except Exception as error:
                undo()
                self._fall_back_from(error)
                return None
            self._accounts.note_updates([ends], self._epoch_loop.batch_idx)
            if gradients is not None:
                for parameter, gradient in zip(self.trainer.lightning_module.parameters(), gradients, strict=True):
                    parameter.grad = gradient
        self._replay(outputs, 0, 1)
        self._keep(outputs, tensors)
        captured = self._engine.captured
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
        assert self._engine is not None
        assert self._replay is not None
        replay, layout = self._replay, self._engine.layout
        self._accounts.note_chunk(
            ends,
            bool(self._engine.captured.logs),
            lambda begin, end: replay(outputs, begin, end),
            lambda number: rebuild(layout, [tensor[number] for tensor in tensors]),
        )

    def _undoing(self) -> Callable[[], None]:
        """Returns what puts all that a chunk changes back to what it is now."""
        assert self._engine is not None
        restore, random_state, undo_accounts = self._engine.restoring(), torch.get_rng_state(), self._accounts.undoing()

        def undo() -> None:
            restore()
            torch.set_rng_state(random_state)
            undo_accounts()

        return undo

    def _keep(self, outputs: Sequence[Tensor], last: Sequence[Tensor]) -> None:
        assert self._engine is not None
        self._others = 0
        self._losses.append(outputs[0])
        self._last_batch = rebuild(self._engine.layout, [tensor.clone() for tensor in last])
        rest = iter(outputs[1:])
        for log in self._engine.captured.logs:
            if isinstance(log.value, Tensor):
                self._logged.setdefault(log.name, []).append(next(rest))
            elif isinstance(log.value, (int, float)):
                self._logged.setdefault(log.name, []).append(torch.full((len(outputs[0]),), float(log.value)))
