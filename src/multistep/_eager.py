"""Performs one minibatch as plain PyTorch, as Lightning's automatic optimization does when no hook must be called."""

from collections import OrderedDict
from typing import Any

import torch
from pytorch_lightning.loops.optimization.automatic import ClosureResult
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.strategies import SingleDeviceStrategy

from multistep._optimizers import is_torchs, plain_step

PLAIN_PRECISIONS = (Precision, MixedPrecision)


def is_plain(trainer: Any) -> bool:
    """Returns whether Lightning need not call the strategy, the precision or a wrapper of the optimizer's step.

    Lightning calls wrappers of a step, such as torch's step hooks, before the loss is computed.
    """
    plain = type(trainer.strategy) is SingleDeviceStrategy and type(trainer.precision_plugin) in PLAIN_PRECISIONS
    return plain and is_torchs(trainer.optimizers[0]) and plain_step(trainer.optimizers[0]) is not None


def perform_plainly(trainer: Any, kwargs: "OrderedDict[str, Any]", progress: Any) -> dict[str, Any]:
    """Performs the step of a minibatch, and the update that it may end, bit for bit as in ordinary training.

    Args:
        trainer: a trainer for which `is_plain` is true.
        kwargs: the arguments of `training_step`.
        progress: Lightning's progress record of the optimizer.

    Returns:
        The step's output as hooks receive it, with the loss divided by the number of minibatches in an update.
    """
    module, optimizer = trainer.lightning_module, trainer.optimizers[0]
    accumulate = trainer.accumulate_grad_batches
    ends = not trainer.fit_loop._should_accumulate()
    if ends:
        progress.step.increment_ready()
    module._current_fx_name = "training_step"
    with trainer.precision_plugin.train_step_context():
        output = module.training_step(*kwargs.values())
    module._current_fx_name = None
    result = ClosureResult.from_training_step_output(output, accumulate)
    if trainer.fit_loop.epoch_loop.batch_idx % accumulate == 0:
        progress.zero_grad.increment_ready()
        progress.zero_grad.increment_started()
        optimizer.zero_grad()
        progress.zero_grad.increment_completed()
    if result.closure_loss is not None:
        torch.autograd.backward(result.closure_loss)
    if ends:
        if trainer.gradient_clip_val:
            module.clip_gradients(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
        step = plain_step(optimizer)  # torch's wrappers for profilers and hooks cost twice as much as a small step
        assert step is not None
        optimizer._opt_called = True  # schedules check it
        step()
        progress.step.increment_completed()
    return {} if result.loss is None else result.asdict()
