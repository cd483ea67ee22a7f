"""Odd modules whose state is in the user's modules, where the code of their step does not name it."""

from typing import ClassVar

import torch
from torch import nn
from torch.utils.data import TensorDataset

from tests.multistep import held
from tests.multistep.odd import EAGER, loss_of
from tests.multistep.reached import alternately, step
from tests.multistep.training import FEATURES, Classifier

HISTORY, COUNTS, DELTA = [], {"calls": 0}, torch.zeros(FEATURES, requires_grad=True)


class Meter:
    """Counts; there is one below each name."""

    calls = 0

    @classmethod
    def count(cls):
        cls.calls += 1
        return alternately(cls.calls)


def anew(_module=None):
    HISTORY.clear()
    COUNTS["calls"] = held.STATS["calls"] = Meter.calls = Registered.calls = 0
    Once.instances.clear()
    DELTA.grad = None
    with torch.no_grad():
        DELTA.zero_()


# What is changed before it is handed to a function


def recent(values):
    return sum(values[-5:]) / len(values[-5:])


def parity(counts):
    return alternately(counts["calls"])


@step(EAGER, anew)
def is_divided_by_its_recent_mean(self, batch):
    loss = loss_of(self, batch)
    HISTORY.append(loss.detach())
    return loss / recent(HISTORY)


@step(EAGER, anew)
def counts_and_hands_over(self, batch):
    COUNTS["calls"] += 1
    return loss_of(self, batch) * parity(COUNTS)


# What is found by a class of classes, an import, a closure, or the classes that derive from one


class Once(type):
    """Makes one object of each class."""

    instances: ClassVar[dict[type, object]] = {}

    def __call__(cls, *args):
        if cls not in cls.instances:
            cls.instances[cls] = super().__call__(*args)
        return cls.instances[cls]


class Settings(metaclass=Once):
    def __init__(self):
        self.calls = 0


@step(EAGER, anew)
def counts_in_a_single_object(self, batch):
    Settings().calls += 1
    return loss_of(self, batch) * alternately(Settings().calls)


@step(EAGER, anew)
def counts_in_a_module_imported_relatively(self, batch):
    from .held import STATS

    STATS["calls"] += 1
    return loss_of(self, batch) * alternately(STATS["calls"])


def by_a_class():
    class Own:
        calls = 0

    def scaled(loss):
        Own.calls += 1
        return loss * alternately(Own.calls)

    return scaled


def with_scale(module):
    module.scale = by_a_class()


@step(EAGER, with_scale)
def counts_in_a_class_of_a_function(self, batch):
    return self.scale(loss_of(self, batch))


class Registry:
    pass


class Registered(Registry):
    calls = 0


@step(EAGER, anew)
def counts_in_every_class_that_derives(self, batch):
    for each in Registry.__subclasses__():
        each.calls += 1
        factor = alternately(each.calls)
    return loss_of(self, batch) * factor


@step(EAGER, anew)
def counts_in_a_class_that_is_handed_over(self, batch):
    return loss_of(self, batch) * count_in(Meter)


def count_in(kind):
    return kind.count()


# Data that a step keeps


def with_sets(module):
    module.sets = [TensorDataset(torch.zeros(4))]


@step(EAGER, with_sets)
def keeps_targets_in_a_dataset(self, batch):
    targets = self.sets[0].tensors[0]
    with torch.no_grad():
        targets.lerp_(self(batch[0]).softmax(1).mean(0), 0.1)
    return loss_of(self, batch) + (self(batch[0]).softmax(1).mean(0) - targets).square().sum()


# Tensors with a gradient that are no parameters


def with_delta(module):
    anew()
    module.delta = torch.zeros(FEATURES, requires_grad=True)


@step(EAGER, with_delta, on_train_epoch_end=lambda self: ascend(self.delta))
def is_perturbed_by_an_attribute(self, batch):
    return loss_of(self, (batch[0] + self.delta, batch[1]))


@step(EAGER, anew, on_train_epoch_end=lambda self: ascend(DELTA))
def is_perturbed_by_a_global(self, batch):
    return loss_of(self, (batch[0] + DELTA, batch[1]))


def ascend(delta):
    with torch.no_grad():
        delta += 0.1 * delta.grad
    delta.grad = None


class Dual(Classifier):
    """A multiplier in no optimizer, whose gradient adds up over an epoch."""

    def __init__(self):
        super().__init__()
        self.multiplier = nn.Parameter(torch.tensor(0.1))

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.multiplier * (self(batch[0]).square().mean() - 0.05)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.1)

    def on_train_epoch_end(self):
        with torch.no_grad():
            self.multiplier.add_(self.multiplier.grad, alpha=0.1)
        self.multiplier.grad = None
