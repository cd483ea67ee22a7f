"""Engines perform the updates of a chunk: here are the one in plain PyTorch, and the choice of an engine."""

import copy
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from ngram_mlp.errors import UserError
from ngram_mlp.training.optimizers import CannotFuseError, has_step_hooks
from ngram_mlp.training.processes import average, processes
from multistep._threads import candidates, use_fastest
from ngram_mlp.training.updates import PLAIN, UpdateRule

log = logging.getLogger(__name__)

EngineName = Literal["auto", "fused", "eager", "lightning"]
# The updates of a trial.
TRIAL_UPDATES = 3


class Engine(Protocol):
    """What performs the updates of a network that maps contexts (B, T) to logits (B, vocabulary size)."""

    name: str  # by which users ask for it
    lr: float  # the learning rate of the last update, of the first parameter group

    def run(self, contexts: Tensor, targets: Tensor, first: int) -> Tensor:
        """Performs K updates, the first of them number `first`, and returns their losses, shape (K,).

        With N minibatches in an update, contexts are (K * N, B, T) and targets (K * N, B).
        """


class EagerEngine:
    """Performs the updates of a chunk one by one; several processes average their gradients and losses."""

    name = "eager"
    lr = 0.0

    def __init__(
        self, network: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, rule: UpdateRule = PLAIN
    ) -> None:
        self._network = network
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._rule = rule
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._step: Callable[[], object] = optimizer.step
        step = type(optimizer).step
        if hasattr(step, "hooked") and not has_step_hooks(optimizer):
            # Torch's wrappers for profilers and hooks cost twice as much as the step of a network of this size.
            self._step = partial(step.__wrapped__, optimizer)  # type: ignore[attr-defined]
            optimizer._opt_called = True  # type: ignore[attr-defined]  # what a schedule checks before its first step

    def run(self, contexts: Tensor, targets: Tensor, first: int) -> Tensor:
        losses = []
        minibatches = zip(contexts.unbind(0), targets.unbind(0), strict=True)
        for update in range(first, first + len(contexts) // self._rule.minibatches):
            losses.append(self._gradients_of(minibatches))
            self._rule.clip_in_place(self._parameters)
            self.lr = self._optimizer.param_groups[0]["lr"]
            self._step()
            self._scheduler.step()
            for moving_average in self._rule.averages:
                moving_average.move(update)
        stacked = torch.stack(losses)
        if processes() > 1:
            average([stacked])
        return stacked

    def _gradients_of(self, minibatches: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
        """Leaves the gradients of an update's minibatches in `.grad`; returns their mean loss."""
        for parameter in self._parameters:
            parameter.grad = None
        losses = []
        for contexts, targets in islice(minibatches, self._rule.minibatches):
            loss = F.cross_entropy(self._network(contexts), targets)
            torch.autograd.backward(loss if self._rule.minibatches == 1 else loss / self._rule.minibatches)
            losses.append(loss.detach())
        if processes() > 1:
            average([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()


@dataclass(frozen=True)
class Before:
    """How a run was trained before an interruption; it goes on so, as engines and threads differ in the last bits."""

    engine: str
    threads: int | None


class Trial:
    """A few updates by the eager engine, on copies: what compiled code is compared with, and how long they take."""

    def __init__(
        self, network: nn.Module, optimizer: Optimizer, rule: UpdateRule, contexts: Tensor, targets: Tensor
    ) -> None:
        network, optimizer = copy.deepcopy((network, optimizer))
        minibatches = TRIAL_UPDATES * rule.minibatches
        self.contexts, self.targets = contexts[:minibatches], targets[:minibatches]
        self.count = len(self.contexts)
        alone = UpdateRule(rule.minibatches, rule.clip, rule.clip_by)  # averages are not copied
        self._engine = EagerEngine(network, optimizer, ConstantLR(optimizer, factor=1.0), alone)
        with self.same_random_numbers():
            self.losses = self.run()

    def run(self) -> Tensor:
        """The losses of the updates; the copies go on from where they are."""
        return self._engine.run(self.contexts, self.targets, 0)

    def seconds(self) -> float:
        """How long an update takes: the shortest of a few, so that nothing else is counted."""
        times = []
        for _ in range(TRIAL_UPDATES):
            started = time.perf_counter()
            updates = len(self.run())
            times.append((time.perf_counter() - started) / updates)
        return min(times)

    @staticmethod
    @contextmanager
    def same_random_numbers() -> Iterator[None]:
        """Within, dropout draws what it drew for `losses`, and nothing from the stream of the training."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield


def choose_engine(
    wanted: EngineName,
    network: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    chunk: tuple[Tensor, Tensor],
    updates_left: int,
    before: Before | None = None,
    rule: UpdateRule = PLAIN,
) -> Engine:
    """The wanted engine; `auto` is fused where that works and pays off, else eager, and one line is logged about it.

    It also has torch use the number of threads that the engine is fastest with. The minibatches of all chunks have the
    shapes of those in `chunk`. Raises a UserError where `fused` is wanted and does not work.
    """
    threads = before.threads if before else None
    against = "as asked" if wanted == "eager" else None
    if wanted == "auto" and before is not None and before.engine != "fused":
        against = "as before the interruption"
    if against is None:
        from ngram_mlp.training.fused import FusedEngine  # here, since it imports this module

        present = torch.get_num_threads()
        try:
            fused = FusedEngine(network, optimizer, scheduler, rule)
            pays_from = fused.pays_from(*chunk) if wanted == "auto" and before is None else 0
            if updates_left < pays_from:
                against = f"compiling pays from {pays_from:,} updates on, {updates_left:,} are to come"
            if against is None:
                fused.compile(*chunk, candidates(network, chunk[0].shape[1], threads))
                return fused
        except (CannotFuseError, ImportError) as error:  # of a part of torch, in a release that is not known
            if wanted == "fused":
                raise UserError(f"{error}; use auto or eager", engine="fused") from error
            against = str(error)
            torch.set_num_threads(present)
    log.info("engine  eager: %s", against)
    use_fastest_threads(network, chunk[0][0], chunk[1][0], threads)
    return EagerEngine(network, optimizer, scheduler, rule)


def use_fastest_threads(network: nn.Module, contexts: Tensor, targets: Tensor, before: int | None) -> int:
    """Has torch use the number of threads with which a minibatch's gradient takes the shortest time; returns it.

    Args:
        network: which is to be trained.
        contexts: of a minibatch, (B, T).
        targets: of a minibatch, (B,).
        before: the number of a run that goes on.
    """
    numbers = candidates(network, len(targets), before)
    network = copy.deepcopy(network) if len(numbers) > 1 else network

    def trial(_: int) -> None:
        torch.autograd.backward(F.cross_entropy(network(contexts), targets))

    with torch.random.fork_rng(devices=[]):
        return use_fastest(numbers, trial)
