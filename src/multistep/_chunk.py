"""Performs the minibatches of a chunk with the fused engine, and keeps Lightning's counters of them."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from multistep._accounts import Accounts
from multistep._averaging import averages_of
from multistep._choice import Choice
from multistep._errors import CannotFuseError
from multistep._minibatches import Odd, Stacked
from multistep._schedules import upcoming_rates
from multistep._signals import deferring_signals
from multistep._tree import is_moderate, rebuild

SECONDS = 0.25  # after which a chunk ends, to show progress and handle signals


class Chunk:
    """Performs the minibatches of a chunk with the chosen engine, and keeps their outputs.

    Args:
        accounts: keeps Lightning's counters.
        choice: holds the chosen engine.
        perform_one: performs a minibatch as Python.

    Attributes:
        losses: the losses of the minibatches so far.
        logged: the numbers that the module has logged, by name.
    """

    def __init__(self, trainer: Any, accounts: Accounts, choice: Choice, perform_one: Callable[[Any], None]) -> None:
        self._trainer, self._accounts, self._choice, self._perform_one = trainer, accounts, choice, perform_one
        self.losses: list[Tensor] = []
        self.logged: dict[str, list[Tensor]] = {}
        self._seconds = SECONDS / 50  # for a fused minibatch; a high guess at first
        self._singly = 0  # minibatches that are performed as Python
        self._loss_was_infinite = self._has_diverged = False
        self._layout: Any = None  # of the minibatches being performed

    def clear(self) -> None:
        """Begins the next chunk."""
        self.losses.clear()
        self.logged.clear()

    @property
    def _epoch_loop(self) -> Any:
        return self._trainer.fit_loop.epoch_loop

    def take(self, fetcher: Any, most: int) -> int:
        """Fetches and performs minibatches; returns how many, 0 if only the last of the epoch is left."""
        assert self._choice.engine is not None
        assert self._choice.source is not None
        most = min(most, self._choice.longest, max(1, int(SECONDS / self._seconds)))
        done = 0
        with deferring_signals():  # so that fetched minibatches are performed
            for piece in self._choice.source.take(fetcher, most, self._choice.engine):
                done += piece.count if isinstance(piece, Stacked) else 1
                if isinstance(piece, Odd):
                    self._perform_one(piece.batch)
                    continue
                begin = 0
                while begin < piece.count:
                    rest = [tensor[begin:] for tensor in piece.tensors]
                    begin += self._perform(rest, piece.count - begin)
        return done

    def _perform(self, tensors: Sequence[Tensor], count: int) -> int:
        """Performs stacked minibatches, and keeps Lightning's counters of them; returns how many."""
        trainer: Any = self._trainer
        loop, engine = self._epoch_loop, self._choice.engine
        if engine is None or self._singly:  # it has fallen back within this chunk
            self._singly = max(0, self._singly - 1)
            self._perform_one(rebuild(self._layout, [tensor[0] for tensor in tensors]))
            return 1
        assert self._choice.schedules is not None
        self._layout = engine.layout
        self._note_divergence()
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
            if (outputs := self._run(some, rates, ends, due, ready % each != 0, undo)) is None:
                return 0
            self._seconds = max((time.perf_counter() - started) / count, 1e-6)
            self._note(outputs, ends, tensors)
        self._keep(outputs, [tensor[count - 1] for tensor in tensors])
        if count < wanted:
            number = f"{trainer.global_step:,}"
            self._choice.fall_back(f"after {number} updates: a schedule changes more than the learning rate")
        return count

    def _run(
        self,
        tensors: Sequence[Tensor],
        rates: Tensor,
        ends: Sequence[bool],
        due: Tensor,
        within: bool,
        undo: Callable[[], None],
    ) -> list[Tensor] | None:
        """Runs the engine; returns None, with everything restored, if the minibatches have to be performed as Python.

        These are all minibatches after an exception, so that the right one raises it, and some whose loss is infinite,
        as compiled code may treat infinities otherwise.
        """
        assert self._choice.engine is not None
        try:
            outputs = self._choice.engine.run(tensors, rates, torch.tensor(ends), due, within)
        except Exception as error:
            undo()
            self._choice.fall_back_from(error)
            return None
        if is_moderate(outputs[0]) or self._has_diverged:
            return outputs
        undo()
        self._singly, self._loss_was_infinite = len(rates), True
        return None

    def perform_last(self, tensors: list[Tensor], optimizer: Optimizer, batch: Any) -> dict[str, Any] | None:
        """Performs the minibatch that Lightning passes in; Lightning keeps all its counters except the optimizer's.

        Returns None, and restores everything, if the engine raises.
        """
        assert self._choice.engine is not None
        assert self._choice.replay is not None
        ends = not self._trainer.fit_loop._should_accumulate()
        rates = torch.tensor([[float(group["lr"]) for group in optimizer.param_groups]], dtype=torch.float64)
        self._note_divergence()
        undo, due = self._undoing(), self._due(self._trainer.global_step, [ends])
        with deferring_signals():
            within = self._epoch_loop.batch_idx % self._trainer.accumulate_grad_batches != 0
            gradients = self._choice.engine.gradients(batch, within) if ends and self._choice.reads_gradients else None
            one = [tensor[None] for tensor in tensors]
            if (outputs := self._run(one, rates, [ends], due, within, undo)) is None:
                self._singly = 0  # Lightning performs it
                return None
            self._accounts.note_updates([ends], self._epoch_loop.batch_idx)
            if gradients is not None:
                for parameter, gradient in zip(self._trainer.lightning_module.parameters(), gradients, strict=True):
                    parameter.grad = gradient
        self._choice.replay(outputs, 0, 1)
        self._keep(outputs, tensors)
        captured = self._choice.engine.captured
        extra = dict(captured.extra)
        values = iter(outputs[len(outputs) - sum(isinstance(value, Tensor) for value in extra.values()) :])
        extra = {key: next(values)[0] if isinstance(value, Tensor) else value for key, value in extra.items()}
        loss = outputs[0][0]
        return {"loss": loss / self._trainer.accumulate_grad_batches, **extra}

    def _note_divergence(self) -> None:
        """Notes whether minibatches with an infinite loss, performed as Python, have made the parameters infinite."""
        if self._loss_was_infinite or self._has_diverged:  # a callback may have replaced them since
            assert self._choice.engine is not None
            self._has_diverged = not all(map(is_moderate, self._choice.engine.state()))
            self._loss_was_infinite = False

    def _due(self, first: int, ends: Sequence[bool]) -> Tensor:
        """Returns whether the update of each minibatch moves each average, (K, averages)."""
        averages = averages_of(self._trainer)
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
        """Returns a function that restores everything that a chunk changes."""
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
        self.losses.append(outputs[0])
        self._choice.note_last(rebuild(self._choice.engine.layout, [tensor.clone() for tensor in last]))
        rest = iter(outputs[1:])
        for log in self._choice.engine.captured.logs:
            if isinstance(log.value, Tensor):
                self.logged.setdefault(log.name, []).append(next(rest))
            elif isinstance(log.value, (int, float)):
                self.logged.setdefault(log.name, []).append(torch.full((len(outputs[0]),), float(log.value)))
