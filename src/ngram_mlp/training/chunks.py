"""The loop that takes the place of Lightning's around one minibatch, where updates are trained in chunks."""

from collections import OrderedDict
from typing import Any

import torch
from pytorch_lightning.loops.optimization.automatic import _AutomaticOptimization
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ngram_mlp.training.counters import advance_counters, begin_counters
from ngram_mlp.training.engines import Before, Engine, EngineName, choose_engine
from ngram_mlp.training.updates import UpdateRule


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
        _leave_gradients_to_the_engine(trainer)
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        left = trainer.max_steps - trainer.global_step
        network, rule = trainer.lightning_module.network, UpdateRule.of(trainer)
        return choose_engine(self._wanted, network, optimizer, scheduler, chunk, left, self._before, rule)


def use_chunks(trainer: Any, wanted: EngineName, before: Before | None) -> None:
    """Has a trainer take chunks, and an engine perform them; for the arguments see `ChunkLoop`."""
    _replace_loop(trainer, ChunkLoop(trainer, wanted, before))


def use_minibatches(trainer: Any) -> None:
    """Has a trainer take single minibatches, as Lightning does, whatever it did in an earlier fit."""
    _replace_loop(trainer, _AutomaticOptimization(trainer))


def _replace_loop(trainer: Any, loop: _AutomaticOptimization) -> None:
    around = trainer.fit_loop.epoch_loop
    loop.optim_progress = around.automatic_optimization.optim_progress  # has `global_step`, when a run is resumed
    around.automatic_optimization = loop
    # An earlier fit by this trainer has ended its stream, and the one epoch that there is.
    trainer.fit_loop._combined_loader = None
    trainer.fit_loop.epoch_progress.reset()


def _leave_gradients_to_the_engine(trainer: Any) -> None:
    """Keeps DDP's wrapper from synchronizing: it expects one backward pass per call, a chunk has one per update."""
    if isinstance(trainer.strategy.model, DistributedDataParallel):
        trainer.strategy.model.require_backward_grad_sync = False
