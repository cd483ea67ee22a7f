"""One minibatch as plain PyTorch: what Lightning's automatic optimization does where no hook has to be called."""

from collections import OrderedDict
from typing import Any

import torch
from pytorch_lightning.loops.optimization.automatic import ClosureResult
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.strategies import SingleDeviceStrategy

from multistep._optimizers import is_torchs, plain_step

PLAIN_PRECISIONS = (Precision, MixedPrecision)


def is_plain(trainer: Any) -> bool:
    """Returns whether nothing of a strategy, a precision or an optimizer's own step has to be called by Lightning.

    What wraps a step, such as torch's hooks for it, is called before the loss is computed there.
    """
    plain = type(trainer.strategy) is SingleDeviceStrategy and type(trainer.precision_plugin) in PLAIN_PRECISIONS
    return plain and is_torchs(trainer.optimizers[0]) and plain_step(trainer.optimizers[0]) is not None


def perform_plainly(trainer: Any, kwargs: "OrderedDict[str, Any]", progress: Any) -> dict[str, Any]:
    """Performs the step of a minibatch, and the update that ends with it, to the bits of ordinary training.

    Args:
        trainer: for which `is_plain` holds.
        kwargs: the arguments of `training_step`.
        progress: Lightning's account of the optimizer.

    Returns:
        What the step returned, as hooks are given it; the loss divided by the minibatches of an update.
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
        optimizer._opt_called = True  # what a schedule checks
        step()
        progress.step.increment_completed()
    return {} if result.loss is None else result.asdict()
