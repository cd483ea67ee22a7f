"""Chooses the engine after the first update, watches it, and chooses again when something has changed."""

import copy
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from pytorch_lightning.callbacks import StochasticWeightAveraging
from torch import Tensor

from multistep._averaging import averages_of
from multistep._calls import is_others
from multistep._check import are_close
from multistep._errors import CannotFuseError, EngineMismatchError
from multistep._fused import FusedEngine
from multistep._fusible import refuse_what_cannot_be_fused
from multistep._hooks import has_hooks, has_state_hooks, reads_gradients
from multistep._late_metrics import LateMetrics
from multistep._loaders import data_of, loaders_of, may_repeat, refused_data
from multistep._logs import Replay
from multistep._minibatches import Source, longest_chunk
from multistep._own_schedules import OwnSchedules
from multistep._reach import shared_places
from multistep._signals import deferring_signals
from multistep._step import Rule, perform_on_copies, state_of_users, without_optimizer
from multistep._user_state import UserState

CHECKED_EVERY = 10_000  # updates between comparisons of compiled code with the module's own step
FEW = 50  # updates; fewer take less time than estimating the cost of compiling
COMPILATIONS = 3  # anew in a run, because something changed
OTHERS = 5  # consecutive minibatches of another layout that Lightning passes in, until one is compiled for


class Choice:
    """Chooses the engine of a trainer, and holds what belongs to the fused engine.

    Args:
        owner: the callback, to which the engine and the reason are reported.

    Attributes:
        decided: whether an engine has been chosen.
        engine: the fused engine, if it was chosen.
        replay: passes its outputs to Lightning.
        source: fetches its minibatches.
        schedules: steps user-defined schedules for it.
        longest: the maximum number of its minibatches in a chunk.
        last_batch: the last minibatch that it performed.
        reads_gradients: whether a hook reads gradients after its updates.
    """

    def __init__(self, trainer: Any, owner: Any) -> None:
        self._trainer, self._owner = trainer, owner
        self.decided = False
        self.engine: FusedEngine | None = None
        self.replay: Replay | None = None
        self.source: Source | None = None
        self.schedules: OwnSchedules | None = None
        self.longest = 1
        self.last_batch: Any = None
        self.reads_gradients = False
        self._first_batch: Any = None  # the one that was compiled for
        self._first: int | None = None  # the number of updates before the first minibatch
        self._checked_at = 0
        self._compilations = 0
        self._others = 0
        self._loaders: list[Any] = []  # the ones that `source` was made for
        self._has_state = False  # whether the optimizer keeps state
        self._waits_at = -1  # the update at which thawed parameters had no state yet
        self._precision: Any = None  # the one that was compiled for
        self._hooked = False  # whether user code runs between epochs and validations
        self._moment = (0, 0)  # the `_now` of the last check for it

    @property
    def _has_begun(self) -> bool:
        """True if the optimizer itself has performed an update, in this run or (compared) before an interruption."""
        now = self._trainer.global_step
        return bool((self._first is not None and now > self._first) or (self._owner.resumes and now > 0))

    @deferring_signals(interrupts=False)
    def takes(self, tensors: list[Tensor] | None, layout: Any, batch: Any) -> list[Tensor] | None:
        """Returns the tensors if compiled code takes them, else None; compiles anew after `OTHERS` such minibatches."""
        self._others += 1
        if self._others < OTHERS:
            return None
        try:
            self._compile_anew(batch)
        except CannotFuseError as error:
            self.fall_back(f"after {self._trainer.global_step:,} updates: {error}")
        self._others = 0
        return tensors if self.engine and tensors is not None and self.engine.accepted.takes(tensors, layout) else None

    @deferring_signals(interrupts=False)
    def expected(self, batch: Any) -> dict[str, Tensor] | None:
        """Returns the loss and gradients of the run's first minibatch on a copy, before Lightning performs it; or None.

        A step may look itself up, for example by identity, and compute something else on every copy.
        """
        trainer: Any = self._trainer
        if self._first is not None:
            return None
        self._first = trainer.global_step
        if self._owner.wanted == "eager" or self._has_begun or trainer.world_size > 1 or self._are_few():
            return None
        with suppress(Exception):  # the same exception is reported at compilation
            context, random_state = trainer.precision_plugin.train_step_context, torch.get_rng_state()
            module, optimizer = trainer.lightning_module, trainer.optimizers[0]
            state = state_of_users(module, optimizer)
            return perform_on_copies(module, optimizer, Rule.of(trainer), batch, context, 1, state, random_state)[1]
        return None

    def compare_first(self, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
        """Switches to the eager engine if the loss and gradients of the first minibatch are not the expected ones."""
        if not are_close(found, expected):
            self.fall_back("training_step computes different values on a copy of the module")

    def suspend(self, reason: str) -> None:
        """Switches to Lightning's own loop, for as long as there is a reason."""
        self.engine, self.decided = None, False
        if not (self._owner.reason or "").endswith(reason):
            self._owner.leave_to_lightning(f"after {self._trainer.global_step:,} updates: {reason}")

    @deferring_signals(interrupts=False)
    def decide(self, batch: Any) -> None:
        """Chooses the engine, once the optimizer itself has performed an update."""
        wanted = self._owner.wanted
        if wanted == "eager":
            self.decided = True
            self._owner.tell("eager", "as requested" if self._owner.engine == "eager" else "as before the interruption")
        elif self._has_begun and self._are_few():
            self.decided = True
            self._owner.tell("eager", f"{self._updates_left():,.0f} updates are too few for compiling to pay off")
        elif self._has_begun and self._trainer.global_step != self._waits_at:
            try:
                self.engine = self._compiled(batch, "fused" if self._compilations else wanted)
            except CannotFuseError as error:
                self.fall_back(str(error))
            else:
                self.decided = True  # skipped if a signal ended the compilation
                if self.engine is not None:
                    self._owner.tell("fused", None)

    def _compiled(self, batch: Any, wanted: str) -> FusedEngine | None:
        trainer: Any = self._trainer
        module, optimizer = trainer.lightning_module, trainer.optimizers[0]
        refuse_what_cannot_be_fused(trainer)
        swa = any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks)
        others = [callback for callback in trainer.callbacks if callback is not self._owner and is_others(callback)]
        # After averaging weights, Lightning's epoch of batch statistics begins with the gradients that are left.
        reads = reads_gradients([each for each in (*others, module, trainer.datamodule) if each is not None], module)
        self.reads_gradients = swa or reads or has_state_hooks(optimizer)
        if self.reads_gradients and (name := without_optimizer(module, optimizer)):
            raise CannotFuseError(f"a hook reads gradients, and those of {name}, in no optimizer, are never reset")
        engine = FusedEngine(
            module,
            optimizer,
            Rule.of(trainer),
            averages_of(trainer),
            batch,
            trainer.precision_plugin.train_step_context,
            self._owner.say,
        )
        if engine.captured.requires and may_repeat(trainer):
            raise CannotFuseError("training_step makes its minibatch require gradients; the loader may return it again")
        if wanted == "auto":
            left, pays_from = self._updates_left(), engine.pays_from()
            if left < pays_from:
                self._owner.tell("eager", f"compiling pays off from {pays_from:,} updates; {left:,.0f} remain")
                return None
        engine.compile(self._owner.candidates(trainer, batch))
        self._owner.note_threads()
        self._try_what_runs_at_other_times(engine)
        self._precision = trainer.precision_plugin
        self._read_data(engine)
        self._has_state = any(optimizer.state.values())
        self.longest = longest_chunk(engine.layout, engine.captured.tensors())
        self.last_batch, self._first_batch, self._checked_at = batch, copy.deepcopy(batch), trainer.global_step
        self._hooked = bool(others) or has_hooks(module)
        self._moment = self._now()
        return engine

    def _try_what_runs_at_other_times(self, engine: FusedEngine) -> None:
        """Tries the schedules, which run before the updates of a chunk, and the metrics, which run after them."""
        trainer: Any = self._trainer
        module, optimizer, data = trainer.lightning_module, trainer.optimizers[0], data_of(trainer)
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        roots = {"module": module, "optimizer": optimizer, "schedules": schedules, "data": data}
        named = {f"what the {name} holds": root for name, root in roots.items()}
        state = cache(lambda: UserState(named, data=True))  # most trainings have neither
        self.schedules = own = OwnSchedules(trainer, engine, state)
        metrics = LateMetrics(module, engine, state, data, lambda key: engine.watch.has(key) or own.may_read(key))
        own.later = metrics.places
        self.replay = Replay(module, engine.captured, metrics)

    def _read_data(self, engine: FusedEngine) -> None:
        """Records the present loaders, and makes a source that watches what they share with an update."""
        assert self.schedules is not None
        self._loaders = loaders_of(self._trainer)
        read = [*engine.watch.places(self._trainer.lightning_module), *self.schedules.places, *self.schedules.later]
        self.source = Source(self._trainer, shared_places(data_of(self._trainer), read))

    def _are_few(self) -> bool:
        return self._owner.wanted == "auto" and self._updates_left() < FEW

    def _updates_left(self) -> float:
        trainer: Any = self._trainer
        left = float("inf") if trainer.max_steps < 0 else trainer.max_steps - trainer.global_step
        if trainer.max_epochs not in (None, -1):
            minibatches = (trainer.max_epochs - trainer.current_epoch) * trainer.fit_loop.max_batches
            minibatches -= trainer.fit_loop.epoch_loop.batch_progress.current.completed
            left = min(left, minibatches // trainer.accumulate_grad_batches)
        return float(left)

    def note_last(self, batch: Any) -> None:
        """Records the last minibatch that compiled code has performed."""
        self.last_batch, self._others = batch, 0

    @deferring_signals(interrupts=False)
    def renew(self, batch: Any) -> None:
        """Compiles anew or falls back if something that compiled code depends on has changed; compares at intervals."""
        assert self.engine is not None
        trainer = self._trainer
        batch = self.last_batch if batch is None else batch
        have_run, self._moment = self._moment != self._now(), self._now()
        try:
            if reason := refused_data(trainer):  # a callback may have given the loaders the module
                raise CannotFuseError(reason)
            if self._is_outdated():
                self._compile_anew(batch)
            elif [*map(id, loaders_of(trainer))] != [*map(id, self._loaders)]:
                self._read_data(self.engine)
        except CannotFuseError as error:
            self.fall_back(f"after {trainer.global_step:,} updates: {error}")
            return
        if self.engine is None:
            return
        if self._hooked and have_run:
            if difference := self._difference(batch):  # nothing that is watched has changed
                self.fall_back(f"after {trainer.global_step:,} updates: {difference}")
        elif trainer.global_step - self._checked_at >= CHECKED_EVERY:
            self.compare(batch)

    def _now(self) -> tuple[int, int]:
        """Returns the epoch and the number of validations; user hooks run when they change."""
        return self._trainer.current_epoch, self._owner.validations

    def _is_outdated(self) -> bool:
        """Returns whether the compiled update is no longer the one to perform."""
        rule, averages = Rule.of(self._trainer), averages_of(self._trainer)
        assert self.engine is not None
        assert self.schedules is not None
        if self._precision is not self._trainer.precision_plugin or not self.schedules.are_those_of(self._trainer):
            return True
        return self.engine.is_outdated(self._trainer.optimizers[0], rule, averages) or self.engine.changed()

    def _compile_anew(self, batch: Any) -> None:
        self._compilations += 1
        if self._compilations > COMPILATIONS:
            raise CannotFuseError("the module, the optimizer or the minibatches change too often to recompile")
        self.engine, self.decided = None, False  # in case a signal ends the compilation
        optimizer = self._trainer.optimizers[0]
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        if self._has_state and not all(map(optimizer.state.get, trained)):
            self._waits_at = self._trainer.global_step  # until an update by Lightning has made the state
        else:
            self.engine, self.decided = self._compiled(batch, "fused"), True

    def compare(self, batch: Any) -> None:
        """Compares one compiled update with the module's own step; raises an EngineMismatchError if they differ."""
        if difference := self._difference(batch):
            raise EngineMismatchError(f"engine fused: {difference}; use engine eager")

    def _difference(self, batch: Any) -> str | None:
        assert self.engine is not None
        before, self._checked_at = self._checked_at, self._trainer.global_step
        try:
            where = self.engine.check(batch)
        except CannotFuseError as error:  # possible before, and nothing that is watched has changed
            where = f"its behaviour: {error}"
        doubt = f"updates {before + 1:,} to {self._checked_at:,} are in doubt"
        return f"compiled code differs from training_step in {where}; {doubt}" if where else None

    @deferring_signals(interrupts=False)
    def compare_last(self) -> None:
        """Compares a last update, unless a hook at the end of training has changed something."""
        with suppress(CannotFuseError):
            if self.engine is not None and self.last_batch is not None and not self._is_outdated():
                self.compare(self._first_batch)  # not the last one, as state may remember it

    def fall_back(self, reason: str) -> None:
        """Switches to the eager engine."""
        self.engine, self.decided = None, True
        self._owner.fall_back(reason)

    def fall_back_from(self, error: Exception) -> None:
        """Switches to the eager engine after compiled code raised an exception, which eager PyTorch explains better."""
        line = (str(error).splitlines() or [""])[0]
        self.engine, self.decided = None, True
        self._owner.tell("eager", f"after {self._trainer.global_step:,} updates: {type(error).__name__}: {line}")
