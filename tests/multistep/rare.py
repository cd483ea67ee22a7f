"""Settings of rare values, which no trial sees, and of state where it is rarely kept."""

import builtins
import functools
import sys
from array import array
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from tests.multistep.settings import EAGER, SETTINGS, Setting
from tests.multistep.training import CLASSES, SIZE, Classifier, examples


def with_one(value, row=40 * SIZE // 3):
    """Returns a loader whose minibatch 13 of 20 holds a value."""
    x, y = examples().tensors
    x = x.clone()
    x[row, 2] = value
    return DataLoader(TensorDataset(x, y), SIZE)


class Transformed(Classifier):
    """Transforms its inputs, and logs their mean."""

    def __init__(self, transform):
        super().__init__()
        self.transform = transform

    def training_step(self, batch, batch_idx):
        x = self.transform(batch[0])
        self.log("mean", x.mean(), on_step=True, on_epoch=True)
        return super().training_step((x, batch[1]), batch_idx)


class Logarithmic(Classifier):
    """Has a loss that is infinite where a minibatch holds a zero; its gradient is not."""

    def training_step(self, batch, batch_idx):
        infinite = batch[0].abs().log().min()
        self.log("infinite", infinite, on_step=True, on_epoch=True)
        return super().training_step(batch, batch_idx) - 1e-3 * infinite


class Padded(Classifier):
    """Has a row of weights that no gradient reaches."""

    def __init__(self, make_optimizer=None):
        super().__init__(make_optimizer)
        self.embedding = nn.Embedding(CLASSES + 1, 3, padding_idx=0)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.embedding(batch[1] + 1).square().mean()


class ToZero(Padded):
    """Its rate falls to 0 and rises again."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [{"scheduler": CosineAnnealingLR(optimizer, 50), "interval": "step"}]


class AtZero(Padded):
    """Has a group with the rate 0."""

    def configure_optimizers(self):
        groups = [{"params": self.embedding.parameters(), "lr": 0.0}, {"params": self.net.parameters()}]
        return torch.optim.Adam(groups, lr=0.01)


class Diverging(torch.optim.SGD):
    """Has a step of its own, and a rate that makes the weights infinite."""

    def step(self, closure=None):
        loss = closure()
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.sub_(1e20 * parameter.grad)
        return loss


def counting(count):
    """Returns a module that doubles its loss after 30 calls of `count`."""

    class Counting(Classifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (2.0 if count(self) > 30 else 1.0)

        def on_train_end(self):
            for owner, name in ((Named, "__calls__"), (sys, "calls_"), (builtins, "calls_")):
                if name in vars(owner):
                    delattr(owner, name)
            VIEW[0], documented.__doc__ = 0, ""

    return Counting


class Named:
    """Counts under a name that looks like Python's own."""


def dunder(_module):
    Named.__calls__ = getattr(Named, "__calls__", 0) + 1
    return Named.__calls__


def version(module):
    return module.net[0].weight._version


def of_sys(_module):
    sys.calls_ = sys.__dict__.get("calls_", 0)
    sys.calls_ += 1
    return sys.calls_


def of_builtins(_module):
    import builtins as python

    python.calls_ = getattr(python, "calls_", 0) + 1
    return python.calls_


VIEW = memoryview(array("q", [0]))


def viewed(_module):
    VIEW[0] += 1
    return VIEW[0]


def documented(_module):
    documented.__doc__ += "."
    return len(documented.__doc__)


documented.__doc__ = ""


class Cached(Classifier):
    @functools.cached_property
    def factors(self):
        return torch.linspace(1, 2, CLASSES)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x) * self.factors, y)


SETTINGS |= {
    "a missing value that is replaced": Setting(
        make=partial(Transformed, lambda x: torch.where(x > 0, x, x * 0)), data=partial(with_one, float("nan"))
    ),
    "an infinite value that is shrunk": Setting(
        make=partial(Transformed, lambda x: F.gelu(x).clamp(-9, 9)), data=partial(with_one, float("inf"))
    ),
    "missing values everywhere": Setting(
        make=partial(Transformed, torch.nan_to_num),
        data=lambda: DataLoader(TensorDataset(*_with_gaps(examples())), SIZE),
    ),
    "an infinite loss": Setting(make=Logarithmic, data=partial(with_one, 0.0)),
    "a value whose square is infinite": Setting(
        make=partial(Transformed, lambda x: x.clamp(-5, 5) * x.std(1, keepdim=True).log1p()),
        data=partial(with_one, 1e25),
    ),
    "values as whole numbers": Setting(
        EAGER, make=partial(Transformed, lambda x: (40 * x).round().to(torch.int8).float() / 40)
    ),
    "values in 16 bits": Setting(EAGER, make=partial(Transformed, lambda x: x.half().float())),
    "a rate that falls to 0": Setting(make=partial(ToZero, partial(torch.optim.AdamW, lr=0.01))),
    "a rate of 0": Setting(make=AtZero),
    "a step of one's own that diverges": Setting(make=partial(Classifier, partial(Diverging, lr=0.1))),
    **{
        f"a count in {name}": Setting(EAGER, make=counting(count))
        for name, count in {
            "a name like Python's": dunder,
            "a tensor's version": version,
            "sys": of_sys,
            "builtins": of_builtins,
            "a view of memory": viewed,
            "a docstring": documented,
        }.items()
    },
    "a cached property": Setting(make=Cached),
}


def _with_gaps(dataset):
    x, y = dataset.tensors
    return torch.where(torch.arange(x.numel()).reshape(x.shape) % 7 == 0, float("nan"), x), y
