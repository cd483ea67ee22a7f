"""Which engine trains, and why."""

import logging
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ngram_mlp.engines.eager import EagerEngine
from ngram_mlp.engines.formulas import CannotFuseError
from ngram_mlp.engines.threads import limit_threads
from ngram_mlp.errors import UserError

__all__ = ["Engine", "EngineName", "choose_engine"]

log = logging.getLogger(__name__)

EngineName = Literal["auto", "eager", "fused"]
# Compiling takes some 10 s the first time and 4 s from the compiler's cache, and saves about 0.3 ms an update.
PAYS_FROM = 20_000
# The multiplications of a forward pass from which on two threads were faster than one.
EAGER_SHARES_FROM = 3_000_000
FUSED_SHARES_FROM = 50_000_000


class Engine(Protocol):
    """What performs the updates of a block."""

    name: str

    def run(self, contexts: Tensor, targets: Tensor) -> Tensor:
        """Performs K updates on contexts (K, B, T) and targets (K, B); returns their losses, shape (K,)."""


def choose_engine(
    wanted: EngineName,
    network: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    block: tuple[Tensor, Tensor],
    updates_left: int,
    before: str | None = None,
) -> Engine:
    """The engine that is wanted; `auto` is fused where that works and pays, else eager. One line says which and why.

    Args:
        wanted: what the user asked for.
        network: the network to train, in training mode.
        optimizer: its optimizer.
        scheduler: the schedule of the optimizer's learning rate.
        block: the first block, whose shapes all others have.
        updates_left: the updates to come.
        before: the engine that trained up to the checkpoint that the run goes on from; `auto` stays with it, since
            the engines' last bits differ.

    Raises:
        UserError: `fused` is wanted and cannot be had.
    """
    threads = torch.get_num_threads()
    multiplications = block[0].shape[1] * sum(parameter.numel() for parameter in network.parameters())
    against = None if wanted == "fused" else _reason_against_fused(wanted, block[0].device.type, updates_left, before)
    if against is None:
        from ngram_mlp.engines.fused import FusedEngine  # here, since the compiler takes seconds to import

        try:
            limit_threads(multiplications, FUSED_SHARES_FROM)
            fused = FusedEngine(network, optimizer, scheduler)
            fused.compile(*block)
            return fused
        except CannotFuseError as error:
            if wanted == "fused":
                raise UserError(f"--model.engine fused: {error}; use --model.engine auto or eager") from error
            against = str(error)
    torch.set_num_threads(threads)
    limit_threads(multiplications, EAGER_SHARES_FROM)
    log.info("engine  eager: %s", against)
    return EagerEngine(network, optimizer, scheduler)


def _reason_against_fused(wanted: EngineName, device: str, updates_left: int, before: str | None) -> str | None:
    if wanted == "eager":
        return "as asked"
    if device != "cpu":
        return f"compiling is tried and measured on the CPU alone, this is {device}; --model.engine fused tries it"
    if before is not None:
        return None if before == "fused" else "as before the interruption"
    if updates_left < PAYS_FROM:
        return f"compiling pays from {PAYS_FROM:,} updates on, {updates_left:,} are to come"
    return None
