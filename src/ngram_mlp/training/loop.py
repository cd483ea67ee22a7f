"""Whether a trainer takes its minibatches in chunks or one by one."""

import logging
import sys
from typing import Any
from weakref import WeakSet

from ngram_mlp.errors import UserError
from ngram_mlp.releases import unknown_release
from ngram_mlp.training.calls import Calls, calls_of_all, why_not_chunks
from ngram_mlp.training.engines import Before, EngineName
from ngram_mlp.training.trainer import Chunking, longest_chunk

log = logging.getLogger(__name__)

_in_chunks: WeakSet[Any] = WeakSet()  # the trainers that take chunks


def choose_loop(trainer: Any, wanted: EngineName, before: Before | None, module_class: type, data_class: type) -> None:
    """Installs the loop with which a trainer trains: of chunks where nobody wants a call at every update.

    With a release of torch or Lightning that is not known, `auto` leaves Lightning as it is.

    Args:
        trainer: whose optimizers and callbacks are set up.
        wanted: the engine that was asked for.
        before: how the run was trained before an interruption.
        module_class: whose hooks a model may override.
        data_class: whose hooks data may override.

    Raises:
        UserError: `eager` or `fused` was asked for, and somebody wants a call at every update.
    """
    unknown = unknown_release()
    if wanted == "lightning":
        against: str | None = "as asked"
    else:
        against = unknown if wanted == "auto" else None
        against = against or why_not_chunks(trainer, module_class, data_class)
    if against is None:
        _take_chunks(trainer, wanted, before)
        return
    if wanted in ("eager", "fused"):
        raise UserError(f"{against}; use auto or lightning", engine=wanted)
    slower = "; that takes 3 times as long as eager, 45 times as long as fused" if wanted == "auto" else ""
    log.info("engine  lightning: %s%s", against, slower)
    if unknown is None or trainer in _in_chunks:
        from ngram_mlp.training.chunks import use_minibatches

        use_minibatches(trainer)
    _in_chunks.discard(trainer)


def _take_chunks(trainer: Any, wanted: EngineName, before: Before | None) -> None:
    unknown = unknown_release()
    if unknown:
        log.info("engine  %s: as asked, although %s", wanted, unknown)
    try:
        from ngram_mlp.training.chunks import use_chunks  # here, as it may be impossible with a release to come
    except ImportError as error:
        raise UserError(f"{unknown or error}; use auto or lightning", engine=wanted) from error
    use_chunks(trainer, wanted, before)
    _in_chunks.add(trainer)


def trains_chunks(trainer: Any) -> bool:
    """Whether a trainer hands over chunks of minibatches, not single ones."""
    return trainer in _in_chunks


def chunking(trainer: Any, batch_size: int) -> Chunking:
    """How a trainer takes its minibatches; without a trainer, one by one, without an end."""
    if trainer is None:
        return Chunking(Calls(), sys.maxsize, longest=1, singly=True)
    minibatches = trainer.accumulate_grad_batches
    updates = trainer.max_steps if trainer.max_steps >= 0 else sys.maxsize
    if not trains_chunks(trainer):
        return Chunking(Calls(), updates, 1, minibatches, singly=True)
    return Chunking(calls_of_all(trainer), updates, max(1, longest_chunk(batch_size) // minibatches), minibatches)
