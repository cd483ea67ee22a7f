"""Checks whether a checkpoint belongs to a run, and what the resumed run may change."""

import json

import torch
from torch.optim import Optimizer

from ngram_mlp.data import NGramDataModule
from ngram_mlp.data.datamodule import stream_of
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.loading import load_weights
from runlab import Checkpoint, UserError, cannot_resume, changed_options

MOST_THREADS = 1024
OF_A_SHAPE = ("momentum_buffer", "exp_avg", "exp_avg_sq")  # optimizer state in the shape of a parameter
RATES = ("model.optimizer.lr", "model.lr_scheduler")
OF_A_RATE = ("lr", "initial_lr", "max_lr", "min_lr")  # what schedules keep in the optimizer's parameter groups
# Options that a resumed run may change; files may have moved, as the corpus is known by its hash.
CHANGEABLE = ("trainer", "checkpoint_every", *RATES, "engine", "observe", "statistics")
PLACES = ("name", "runs_dir", "data.corpus", "data.data_dir", "ckpt_path", "resume")


def check_checkpoint(checkpoint: Checkpoint, configuration: str, model: LanguageModel, data: NGramDataModule) -> None:
    """Checks that a run with this configuration, model and data can resume from a checkpoint.

    Loads everything in it once, so that a mismatch is found before the run's folder is touched. If learning rates were
    changed, writes their values at the checkpoint's update into it.

    Raises:
        UserError: the checkpoint does not belong to the run, or the run changes an option that cannot be changed.
    """
    changed = changed_options(checkpoint, json.loads(configuration), CHANGEABLE, PLACES)
    data.refuse_another_corpus(stream_of(checkpoint)["corpus"])
    try:
        _load_once(checkpoint, model)
        if any(option.startswith(RATES) for option in changed):
            _renew_rates(checkpoint, model)
    except UserError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise cannot_resume(checkpoint.path, error) from error


def _load_once(checkpoint: Checkpoint, model: LanguageModel) -> None:
    """Raises one of several errors if parts of a checkpoint are absent, or do not fit the model or each other."""
    if checkpoint.model != type(model).__name__ or checkpoint.hyperparameters != model.hparams:
        raise ValueError("its model does not match its configuration")
    load_weights(model, checkpoint.weights)
    configured = model.configure_optimizers()
    configured["optimizer"].load_state_dict(checkpoint.content["optimizer_states"][0])
    _check_state(configured["optimizer"])
    configured["lr_scheduler"]["scheduler"].load_state_dict(checkpoint.content["lr_schedulers"][0])
    stream, parts = stream_of(checkpoint), checkpoint.parts
    for state in (stream["minibatches"]["generator"], stream["default_generator"]):
        torch.Generator().set_state(state)
    if not isinstance(stream["minibatches"]["position"], int):
        raise ValueError("its position in the epoch is not a number")
    callbacks, loops = checkpoint.content["callbacks"], checkpoint.content["loops"]["fit_loop"]
    steps = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    if not callbacks["Losses"]["losses"].shape == (checkpoint.update,) == (steps,):
        raise ValueError("its losses, loops and weights are from different updates")
    threads = callbacks["MultiStep"]["threads"]
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MOST_THREADS):
        raise ValueError("its number of threads is invalid")
    if not all(isinstance(size, int) and size >= 0 for size in parts["events"].values()):
        raise ValueError("a TensorBoard file's length is invalid")


def _check_state(optimizer: Optimizer) -> None:
    """Raises a ValueError if the state loaded into an optimizer does not fit its parameters."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            expected = parameter.shape if key in OF_A_SHAPE else ()
            if key in {*OF_A_SHAPE, "step"} and value is not None and getattr(value, "shape", None) != expected:
                raise ValueError(f"the optimizer's {key} does not have the shape {tuple(expected)}")


def _renew_rates(checkpoint: Checkpoint, model: LanguageModel) -> None:
    configured = model.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]
    scheduler = schedule["scheduler"]
    if schedule["interval"] == "step":
        optimizer._opt_called = True  # a schedule checks this before its first step
        for _ in range(checkpoint.update):
            scheduler.step()
    saved_groups = checkpoint.content["optimizer_states"][0]["param_groups"]
    for saved, new in zip(saved_groups, optimizer.param_groups, strict=True):
        saved |= {key: new[key] for key in OF_A_RATE if key in new}
    checkpoint.content["lr_schedulers"] = [scheduler.state_dict()]
