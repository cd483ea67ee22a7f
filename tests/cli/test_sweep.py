"""What is asked for by its name alone trains, or is refused in one line: every name that torch and Lightning have."""

import inspect
from typing import get_args

import pytest
import torch
from lightning_fabric.plugins.precision.precision import _PRECISION_INPUT
from pytorch_lightning import callbacks, loggers, plugins, profilers
from pytorch_lightning.accelerators import AcceleratorRegistry
from pytorch_lightning.strategies import StrategyRegistry
from torch.nn.modules import activation
from torch.optim import Optimizer, lr_scheduler

from ngram_mlp.cli import train
from ngram_mlp.places import DEFAULT_CONFIG
from tests.lightning_table import at_peace


def classes(module, parent):
    return [name for name, kind in vars(module).items() if inspect.isclass(kind) and issubclass(kind, parent)]


def words(annotation):
    """The words of a union of literals."""
    inner = get_args(annotation)
    return [word for one in inner for word in words(one)] if any(map(get_args, inner)) else [str(one) for one in inner]


NAMES = {
    "--model.optimizer": classes(torch.optim, Optimizer),
    "--model.lr_scheduler": classes(lr_scheduler, (lr_scheduler.LRScheduler, lr_scheduler.ReduceLROnPlateau)),
    "--trainer.callbacks+": callbacks.__all__,
    "--model.activation": activation.__all__,
    "--trainer.logger": [*loggers.__all__, "true", "false"],
    "--trainer.profiler": [*profilers.__all__, "simple", "advanced", "pytorch", "xla"],
    "--trainer.strategy": [*StrategyRegistry.available_strategies(), "auto"],
    "--trainer.accelerator": [*AcceleratorRegistry.available_accelerators(), "auto", "gpu"],
    "--trainer.precision": words(_PRECISION_INPUT),
    "--trainer.plugins": plugins.__all__,
}
LEAST = {"--model.optimizer": 13, "--model.lr_scheduler": 15, "--trainer.callbacks+": 20, "--model.activation": 25}


@pytest.mark.slow
@pytest.mark.parametrize("option", [*NAMES])
def test_every_name_trains_or_is_one_line(option, tmp_path, monkeypatch, corpus_file, capfd):
    monkeypatch.chdir(tmp_path)
    assert len(set(NAMES[option])) >= LEAST.get(option, 5)
    small = ("--data.corpus", str(corpus_file), "--observe.every_n_updates", "off", "--trainer.max_steps", "2")
    trained = [name for name in NAMES[option] if outcome_of(f"{option}={name}", small, capfd) == "trains"]
    assert trained


def outcome_of(argument, small, capfd):
    """`trains`, or the one line with which a command refuses an argument, with status 2."""
    capfd.readouterr()
    try:
        with at_peace():
            train.main(DEFAULT_CONFIG, [*small, "--model", "MLP", "--model.n_hidden", "8", argument])
    except SystemExit as stop:
        status = stop.code
    else:
        return "trains"
    lines = capfd.readouterr().err.splitlines()
    assert (status, len(lines)) == (2, 1), (argument, lines)
    assert lines[0].startswith("error: "), argument
    return lines[0]
