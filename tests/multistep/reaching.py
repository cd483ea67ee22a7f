"""Settings that reach gradients, the module or files by ways of their own."""

import csv
import io
import itertools
import tempfile
import threading
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning import Callback, LightningDataModule
from pytorch_lightning.callbacks import BaseFinetuning
from torch.utils.data import DataLoader, Dataset

from multistep import Calls
from tests.multistep.settings import EAGER, SETTINGS, AtEpoch, Setting
from tests.multistep.training import SIZE, Classifier, examples

# Gradients


def norm_of(module):
    return sum(float(p.grad.norm()) for p in module.parameters() if p.grad is not None)


class ByGradient(LightningDataModule):
    """Scales an epoch's data by the gradient that the last one left."""

    def train_dataloader(self):
        data = examples()
        x, y = data.tensors
        data.tensors = (x * (1 + norm_of(self.trainer.lightning_module)), y)
        return DataLoader(data, SIZE)


class Tuning(BaseFinetuning):
    """Lowers the rate by the gradient, in a method that Lightning's own callback calls."""

    def freeze_before_training(self, pl_module):
        """Freezes nothing."""

    def finetune_function(self, pl_module, epoch, optimizer):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + norm_of(pl_module))


# What a step reads


class Reading(Classifier):
    """Scales its loss by what a function finds."""

    def __init__(self, find):
        super().__init__()
        self.find = find

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * self.find(self)


SCALES = {}
LOCAL = threading.local()
FOLDER = Path(tempfile.mkdtemp())
BEATS = io.StringIO()


def by_identity(module):
    return SCALES.get(id(module), 1.0)


def by_seed(_module):
    return 1.0 + torch.initial_seed() % 97 / 97


def by_thread(_module):
    return LOCAL.scale


def by_file(_module):
    return float(np.load(FOLDER / "scale.npy")[0])


def saving(_module):
    torch.save({"alive": True}, FOLDER / "beat.pt")
    return 1.0


def writing(_module):
    csv.writer(BEATS).writerow(["beat"])
    return 1.0


def scale(_trainer, module):
    SCALES[id(module)] = 0.25


class Within(Callback):
    """Changes within an epoch what it puts back at its end."""

    update_calls = Calls(after=(5,))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.set(1 / (1 + (batch_idx + 1) // 5))

    def on_train_epoch_start(self, trainer, pl_module):
        self.set(1.0)

    on_train_epoch_end = on_train_epoch_start

    def set(self, value):
        LOCAL.scale = value
        np.save(FOLDER / "scale.npy", np.full(1, value))


class Saved(Callback):
    """Halves saved tensors in some updates."""

    update_calls = Calls(after=(5,))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step % 20 == 5:
            self.hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: x, self.halved)
            self.hooks.__enter__()
        elif trainer.global_step % 20 == 15:
            self.hooks.__exit__()

    @staticmethod
    def halved(x):
        return x / 2 if x.shape == (SIZE, 12) else x


# Data that reach the module

MADE = []


def noted():
    MADE.append(Classifier())
    return MADE[-1]


class Reaching(Dataset):
    """Its items depend on the module, which an iterator holds."""

    def __init__(self, held):
        self.held = held

    def __len__(self):
        return 20 * SIZE

    def __getitem__(self, index):
        x, y = examples()[index]
        return x * (1 + next(self.held).net[0].bias.detach()[0]), y


def for_ever(module):
    while True:
        yield module


def reaching(hold):
    return lambda: DataLoader(Reaching(hold(MADE[-1])), SIZE)


SETTINGS |= {
    "data by gradients": Setting(data=ByGradient, options={"reload_dataloaders_every_n_epochs": 1}),
    "a callback of Lightning's by gradients": Setting(callbacks=lambda: [Tuning()]),
    "a scale by identity": Setting(EAGER, make=partial(Reading, by_identity), callbacks=lambda: [AtEpoch(scale)]),
    "a scale by the seed": Setting(EAGER, make=partial(Reading, by_seed)),
    "a scale by a thread's value": Setting(EAGER, make=partial(Reading, by_thread), callbacks=lambda: [Within()]),
    "a scale by a file": Setting(EAGER, make=partial(Reading, by_file), callbacks=lambda: [Within()]),
    "a step that saves a file": Setting(EAGER, make=partial(Reading, saving)),
    "a step that writes a row": Setting(EAGER, make=partial(Reading, writing)),
    "hooks of saved tensors": Setting(EAGER, callbacks=lambda: [Saved()]),
    "data that reach the module by a generator": Setting(EAGER, make=noted, data=reaching(for_ever)),
    "data that reach the module by an iterator": Setting(EAGER, make=noted, data=reaching(itertools.repeat)),
}
