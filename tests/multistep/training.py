"""What the tests of multistep share: small modules, data, and a training by ordinary Lightning to compare with."""

import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from multistep import MultiStep

FEATURES, CLASSES, SIZE = 6, 4, 16


def examples(count: int = 20 * SIZE) -> TensorDataset:
    """Returns inputs (count, 6) and classes (count,) that can be learnt."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, FEATURES, generator=generator)
    return TensorDataset(x, (x @ torch.randn(FEATURES, CLASSES, generator=generator)).argmax(1))


def loader(count: int = 20 * SIZE, **options: Any) -> DataLoader[Any]:
    return DataLoader(examples(count), **{"batch_size": SIZE, "shuffle": True, **options})


class Classifier(LightningModule):
    """A small network with one logged value; the odd ones are made of it."""

    def __init__(self, optimizer: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 12), nn.Tanh(), nn.Linear(12, CLASSES))
        self.make_optimizer = optimizer

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.parameters() if p.requires_grad]
        return self.make_optimizer(parameters) if self.make_optimizer else torch.optim.SGD(parameters, lr=0.1)


@dataclass
class Trained:
    """A module after training, its trainer, and the callback where there was one."""

    module: LightningModule
    trainer: Trainer
    multistep: MultiStep | None

    @property
    def metrics(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.trainer.callback_metrics.items()}

    @property
    def states(self) -> dict[str, Tensor]:
        """Parameters, buffers and the state of the optimizer."""
        tensors = dict(self.module.state_dict())
        for number, kept in self.trainer.optimizers[0].state_dict()["state"].items():
            tensors |= {f"{key} of {number}": value for key, value in kept.items() if isinstance(value, Tensor)}
        return {name: value.detach().clone() for name, value in tensors.items()}


def train(
    make: Callable[[], LightningModule],
    engine: str | None,
    data: Any = None,
    callbacks: Sequence[Callback] = (),
    ckpt_path: Any = None,
    **options: Any,
) -> Trained:
    """Trains a module by an engine; by ordinary Lightning where it is None."""
    torch.manual_seed(1)
    module = make()
    multistep = MultiStep(engine) if engine else None
    options = {
        "max_epochs": 3,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        **options,
    }
    trainer = pl.Trainer(callbacks=[*callbacks, *([multistep] if multistep else [])], **options)
    torch.manual_seed(2)
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="lightning_fabric")
        warnings.filterwarnings("ignore", message="train_dataloader yielded None")
        trainer.fit(module, data() if callable(data) else (data if data is not None else loader()), ckpt_path=ckpt_path)
    return Trained(module, trainer, multistep)


def assert_same(one: Trained, other: Trained, exactly: bool, low: bool = False) -> None:
    """Asserts that weights, buffers, the optimizer's state, metrics and counters agree.

    Args:
        one: what was trained by an engine.
        other: what was trained by ordinary Lightning.
        exactly: to the bit, else to rounding.
        low: rounding of 16 bits.
    """
    assert one.trainer.global_step == other.trainer.global_step
    assert one.trainer.current_epoch == other.trainer.current_epoch
    mine, theirs = one.states, other.states
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        few = low or value.dtype.itemsize == 2
        bounds = {"rtol": 0.0, "atol": 0.0} if exactly else {"rtol": 2e-3, "atol": 3e-2 if few else 2e-5}
        torch.testing.assert_close(mine[name], value, equal_nan=True, msg=lambda text, n=name: f"{n}: {text}", **bounds)
    assert one.metrics.keys() == other.metrics.keys()
    for name, number in other.metrics.items():
        bounds = {"rel": 0.0, "abs": 0.0} if exactly else {"rel": 1e-2 if low else 1e-3, "abs": 1e-5}
        assert one.metrics[name] == pytest.approx(number, nan_ok=True, **bounds), name
