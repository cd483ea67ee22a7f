"""The loop that takes the place of Lightning's around one minibatch, where updates are trained in chunks."""

import logging
import sys
from collections import OrderedDict
from typing import Any

import torch
from pytorch_lightning.loops.optimization.automatic import _AutomaticOptimization
from torch.optim import Optimizer

from ngram_mlp.errors import UserError
from ngram_mlp.training.calls import Calls, calls_of_all, why_not_chunks
from ngram_mlp.training.engines import Before, Engine, EngineName, choose_engine
from ngram_mlp.training.trainer import (
    Chunking,
    advance_counters,
    begin_counters,
    leave_gradients_to_the_engine,
    longest_chunk,
)
from ngram_mlp.training.updates import UpdateRule

log = logging.getLogger(__name__)


class ChunkLoop(_AutomaticOptimization):
    """Has an engine perform the updates of a chunk, where Lightning's own loop performs one minibatch's.

    Everything around it stays Lightning's: hooks, logging, validation and checkpoints, between two chunks. The model
    has a `network`, and a method `record(losses, lr)` for the losses of the chunk.

    Args:
        trainer: which trains.
        wanted: the engine that was asked for; the first chunk decides.
        before: how the run was trained before an interruption.
    """

    def __init__(self, trainer: Any, wanted: EngineName, before: Before | None) -> None:
        super().__init__(trainer)
        self._wanted = wanted
        self._before = before
        self._engine: Engine | None = None

    def run(self, optimizer: Optimizer, batch_idx: int, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        trainer: Any = self.trainer
        model = trainer.lightning_module
        contexts, targets = kwargs["batch"]
        if contexts.dim() == 2:  # a chunk of one minibatch
            contexts, targets = contexts[None], targets[None]
        with trainer.profiler.profile("run_chunk"), trainer.precision_plugin.train_step_context():
            if self._engine is None:
                self._engine = self._choose_engine((contexts, targets), optimizer)
                model.engine_name, model.threads = self._engine.name, torch.get_num_threads()
                begin_counters(trainer)
            losses = self._engine.run(contexts, targets, trainer.global_step)
        model._current_fx_name = "training_step"  # in which Lightning lets a model log
        model.record(losses, self._engine.lr)
        model._current_fx_name = None
        advance_counters(trainer, len(losses))
        return {"loss": losses[-1]}

    def _choose_engine(self, chunk: Any, optimizer: Optimizer) -> Engine:
        trainer: Any = self.trainer
        leave_gradients_to_the_engine(trainer)
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        left = trainer.max_steps - trainer.global_step
        network, rule = trainer.lightning_module.network, UpdateRule.of(trainer)
        return choose_engine(self._wanted, network, optimizer, scheduler, chunk, left, self._before, rule)


def choose_loop(trainer: Any, wanted: EngineName, before: Before | None, module_class: type, data_class: type) -> None:
    """Installs the loop with which a trainer trains: of chunks where nobody wants a call at every update.

    Args:
        trainer: whose optimizers and callbacks are set up.
        wanted: the engine that was asked for.
        before: how the run was trained before an interruption.
        module_class: whose hooks a model may override.
        data_class: whose hooks data may override.

    Raises:
        UserError: `eager` or `fused` was asked for, and somebody wants a call at every update.
    """
    against = "as asked" if wanted == "lightning" else why_not_chunks(trainer, module_class, data_class)
    loop = trainer.fit_loop.epoch_loop
    progress = loop.automatic_optimization.optim_progress  # has `global_step`, when a run is resumed
    if against is None:
        loop.automatic_optimization = ChunkLoop(trainer, wanted, before)
    elif wanted in ("eager", "fused"):
        raise UserError(f"{against}; use auto or lightning", engine=wanted)
    else:
        loop.automatic_optimization = _AutomaticOptimization(trainer)
        slower = "; that takes 3 times as long as eager, 45 times as long as fused" if wanted == "auto" else ""
        log.info("engine  lightning: %s%s", against, slower)
    loop.automatic_optimization.optim_progress = progress
    # An earlier fit by this trainer has ended its stream, and the one epoch that there is.
    trainer.fit_loop._combined_loader = None
    trainer.fit_loop.epoch_progress.reset()


def trains_chunks(trainer: Any) -> bool:
    """Whether a trainer hands over chunks of minibatches, not single ones."""
    return isinstance(trainer.fit_loop.epoch_loop.automatic_optimization, ChunkLoop)


def chunking(trainer: Any, batch_size: int) -> Chunking:
    """How a trainer takes its minibatches; without a trainer, one by one, without an end."""
    if trainer is None:
        return Chunking(Calls(), sys.maxsize, longest=1, singly=True)
    minibatches = trainer.accumulate_grad_batches
    updates = trainer.max_steps if trainer.max_steps >= 0 else sys.maxsize
    if not trains_chunks(trainer):
        return Chunking(Calls(), updates, 1, minibatches, singly=True)
    return Chunking(calls_of_all(trainer), updates, max(1, longest_chunk(batch_size) // minibatches), minibatches)
