"""Engines, which perform the updates of a chunk: the reference in plain PyTorch, and the choice between it and `fused`."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ngram_mlp.errors import UserError
from ngram_mlp.training.optimizers import CannotFuseError, has_step_hooks
from ngram_mlp.training.processes import average, processes

log = logging.getLogger(__name__)

EngineName = Literal["auto", "eager", "fused"]
# Compiling takes some 10 s the first time and 4 s from the compiler's cache, and saves about 0.3 ms an update.
PAYS_FROM = 20_000
# From so many multiplications in a forward pass on, two threads were faster than one.
EAGER_SHARES_FROM = 3_000_000
FUSED_SHARES_FROM = 50_000_000


class Engine(Protocol):
    """What performs the updates of a chunk."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    def run(self, contexts: Tensor, targets: Tensor) -> Tensor:
        """Performs K updates on contexts (K, B, T) and targets (K, B); returns their losses, shape (K,)."""


class EagerEngine:
    """Performs the updates of a chunk one by one; several processes average their gradients and losses.

    Args:
        network: maps contexts (B, T) to logits (B, vocabulary size).
        optimizer: steps once for each minibatch.
        scheduler: stepped once after each update.
    """

    name = "eager"

    def __init__(self, network: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
        self._network = network
        self._scheduler = scheduler
        self._step = _step_of(optimizer)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def run(self, contexts: Tensor, targets: Tensor) -> Tensor:
        """Performs K updates on contexts (K, B, T) and targets (K, B); returns their losses, shape (K,)."""
        losses = []
        several = processes() > 1
        for minibatch, target in zip(contexts.unbind(0), targets.unbind(0), strict=True):
            loss = F.cross_entropy(self._network(minibatch), target)
            for parameter in self._parameters:
                parameter.grad = None
            torch.autograd.backward(loss)
            if several:
                average([parameter.grad for parameter in self._parameters if parameter.grad is not None])
            self._step()
            self._scheduler.step()
            losses.append(loss.detach())
        stacked = torch.stack(losses)
        if several:
            average([stacked])
        return stacked


@dataclass(frozen=True)
class Threaded:
    """An engine, and the number of threads that it is fastest with; outside of `run` torch has its own number."""

    engine: Engine
    threads: int

    @property
    def name(self) -> str:
        """The engine's name."""
        return self.engine.name

    def run(self, contexts: Tensor, targets: Tensor) -> Tensor:
        """What the engine's `run` returns."""
        with _threads(self.threads):
            return self.engine.run(contexts, targets)


def choose_engine(
    wanted: EngineName,
    network: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    chunk: tuple[Tensor, Tensor],
    updates_left: int,
    before: str | None = None,
) -> Engine:
    """The engine that is wanted; `auto` is fused where that works and pays, else eager. One line says which and why.

    Args:
        wanted: what the user asked for.
        network: the network to train, in training mode.
        optimizer: its optimizer.
        scheduler: the schedule of the optimizer's learning rate.
        chunk: the first chunk; the minibatches of all others have its shapes.
        updates_left: the updates to come.
        before: the engine that trained up to the checkpoint from which the run resumes; `auto` stays with it, since
            the engines differ in the last bits.

    Raises:
        UserError: `fused` is wanted and cannot be had.
    """
    multiplications = chunk[0].shape[1] * sum(parameter.numel() for parameter in network.parameters())
    against = None if wanted == "fused" else _reason_against_fused(wanted, chunk[0].device.type, updates_left, before)
    if against is None:
        from ngram_mlp.training.fused import FusedEngine  # here, since the compiler takes seconds to import

        threads = _threads_for(multiplications, FUSED_SHARES_FROM)
        try:
            with _threads(threads):  # which the compiled code depends on
                fused = FusedEngine(network, optimizer, scheduler)
                fused.compile(*chunk)
            return Threaded(fused, threads)
        except CannotFuseError as error:
            if wanted == "fused":
                raise UserError(f"{error}; use auto or eager", engine="fused") from error
            against = str(error)
    log.info("engine  eager: %s", against)
    return Threaded(EagerEngine(network, optimizer, scheduler), _threads_for(multiplications, EAGER_SHARES_FROM))


def _reason_against_fused(wanted: EngineName, device: str, updates_left: int, before: str | None) -> str | None:
    if wanted == "eager":
        return "as asked"
    if device != "cpu":
        return f"compiling was tried and measured on the CPU only, this is {device}; engine fused tries it here"
    if before is not None:
        return None if before == "fused" else "as before the interruption"
    if updates_left < PAYS_FROM:
        return f"compiling pays from {PAYS_FROM:,} updates on, {updates_left:,} are to come"
    return None


def _threads_for(multiplications: int, shares_from: int) -> int:
    """One thread where an update is too small for several to pay; a number set in the environment stays."""
    if multiplications < shares_from and not os.environ.keys() & {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}:
        return 1
    return torch.get_num_threads()


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _step_of(optimizer: Optimizer) -> Callable[[], object]:
    """`optimizer.step` without the wrappers that torch puts around it for profilers and hooks.

    They cost twice as much as the step of a network of this size. Where a hook is registered they stay.
    """
    step = type(optimizer).step
    if has_step_hooks(optimizer) or not hasattr(step, "hooked"):
        return optimizer.step
    optimizer._opt_called = True  # type: ignore[attr-defined]  # what a schedule checks before its first step
    return partial(step.__wrapped__, optimizer)  # type: ignore[attr-defined]
