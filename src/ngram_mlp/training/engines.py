"""Engines perform the updates of a chunk: here are the one in plain PyTorch, and the choice of an engine."""

import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ngram_mlp.errors import UserError
from ngram_mlp.training.optimizers import CannotFuseError, has_step_hooks
from ngram_mlp.training.processes import average, processes
from ngram_mlp.training.updates import PLAIN, UpdateRule

log = logging.getLogger(__name__)

EngineName = Literal["auto", "fused", "eager", "lightning"]
# Compiling takes about 10 s the first time, 4 s from the compiler's cache, and saves about 0.3 ms per update.
PAYS_FROM = 20_000
# The multiplications in a forward pass from which two threads were faster than one.
EAGER_SHARES_FROM = 3_000_000
FUSED_SHARES_FROM = 50_000_000


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


def choose_engine(
    wanted: EngineName,
    network: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    chunk: tuple[Tensor, Tensor],
    updates_left: int,
    before: str | None = None,
    rule: UpdateRule = PLAIN,
) -> Engine:
    """The wanted engine; `auto` is fused where that works and pays off, else eager, and one line is logged about it.

    It also sets torch's number of threads to the one that the engine is fastest with. The minibatches of all chunks
    have the shapes of those in `chunk`. A resumed run stays with the engine that trained `before`, as the engines
    differ in the last bits. Raises a UserError where `fused` is wanted and does not work.
    """
    multiplications = multiplications_in(network, chunk[0].shape[1])
    against = None if wanted == "fused" else _reason_against_fused(wanted, chunk[0].device.type, updates_left, before)
    if against is None:
        from ngram_mlp.training.fused import FusedEngine  # here, since the compiler takes seconds to import

        threads = torch.get_num_threads()
        limit_threads(multiplications, FUSED_SHARES_FROM)  # now, since the compiled code depends on it
        try:
            fused = FusedEngine(network, optimizer, scheduler, rule)
            fused.compile(*chunk)
            return fused
        except CannotFuseError as error:
            if wanted == "fused":
                raise UserError(f"{error}; use auto or eager", engine="fused") from error
            against = str(error)
            torch.set_num_threads(threads)
    log.info("engine  eager: %s", against)
    limit_threads(multiplications)
    return EagerEngine(network, optimizer, scheduler, rule)


def _reason_against_fused(wanted: EngineName, device: str, updates_left: int, before: str | None) -> str | None:
    if wanted == "eager":
        return "as asked"
    if device != "cpu":
        return f"compiling was only tested on the CPU, this is {device}; engine fused tries it here"
    if before is not None:
        return None if before == "fused" else "as before the interruption"
    if updates_left < PAYS_FROM:
        return f"compiling pays from {PAYS_FROM:,} updates on, {updates_left:,} are to come"
    return None


def multiplications_in(network: nn.Module, batch_size: int) -> int:
    """About how many multiplications a forward pass on a minibatch takes."""
    return batch_size * sum(parameter.numel() for parameter in network.parameters())


def limit_threads(multiplications: int, shares_from: int = EAGER_SHARES_FROM) -> None:
    """Lets torch use one thread where an update is too small for several; a number set in the environment stays."""
    if multiplications < shares_from and not os.environ.keys() & {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}:
        torch.set_num_threads(1)
