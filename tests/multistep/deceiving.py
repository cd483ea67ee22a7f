"""Settings whose data, metrics or schedules do what those of torch and torchmetrics do not."""

import random
from functools import partial

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader
from torchmetrics import CatMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from tests.multistep.settings import EAGER, SETTINGS, Scheduled, Setting
from tests.multistep.training import CLASSES, Classifier, examples, loader


class Dropping(Classifier):
    def __init__(self):
        super().__init__()
        self.net.insert(2, nn.Dropout(0.3))


class Noisy(DataLoader):
    """Draws for each minibatch."""

    def __iter__(self):
        for x, y in super().__iter__():
            yield x + 0.1 * torch.randn_like(x), y


class Shuffled(list):
    """Draws an order whenever somebody goes through it."""

    def __iter__(self):
        order = [*range(len(self))]
        random.shuffle(order)
        return iter([self[number] for number in order])


class Twice(Classifier):
    def __init__(self):
        super().__init__()
        self.seen = CatMetric()

    def training_step(self, batch, batch_idx):
        self.seen.update(batch[0][:, 0])
        self.seen.update(batch[0][:, 1])
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self):
        seen = self.seen.compute()
        self.log("order", (seen * torch.linspace(0, 1, len(seen))).sum())
        self.seen.reset()


class LogsFirst(Classifier):
    def __init__(self):
        super().__init__()
        self.accuracy = MulticlassAccuracy(CLASSES)

    def training_step(self, batch, batch_idx):
        self.log("accuracy", self.accuracy)
        self.accuracy(self(batch[0]), batch[1])
        return super().training_step(batch, batch_idx)


class Summing(Metric):
    """Adds up what it is given; a subclass does something else besides."""

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, values):
        self.total += values.sum()

    def compute(self):
        return self.total


class Drawing(Summing):
    def update(self, values):
        super().update(values * random.random())


class Writing(Summing):
    def __init__(self, board):
        super().__init__()
        self.board = board

    def update(self, values):
        super().update(values)
        self.board["total"] = float(self.total)


class Metered(Classifier):
    def __init__(self, make):
        super().__init__()
        self.board = {"total": 0.0}
        self.metric = make(self.board)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.metric.update(batch[0])
        return loss * (1 + self.board["total"] / 1e3)

    def on_train_epoch_end(self):
        self.log("total", self.metric.compute())


class ByGradients(LRScheduler):
    """Lowers the rate of an epoch after large gradients."""

    def get_lr(self):
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        return [0.1 / (1 + sum(float(g.norm()) for g in gradients)) for _ in self.optimizer.param_groups]


def by_gradients(optimizer):
    def factor(_number):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        return 1 / (1 + sum(float(g.norm()) for g in gradients))

    return LambdaLR(optimizer, factor)


SETTINGS |= {
    "a loader that draws for each minibatch": Setting(make=Dropping, data=lambda: Noisy(examples(), 16, shuffle=True)),
    "a list that draws when it is gone through": Setting(make=Dropping, data=lambda: Shuffled(loader(shuffle=False))),
    "a metric that is updated twice": Setting(EAGER, make=Twice),
    "a metric that is logged first": Setting(EAGER, make=LogsFirst),
    "a metric that draws by Python": Setting(EAGER, make=partial(Metered, lambda board: Drawing())),
    "a metric that writes what a step reads": Setting(EAGER, make=partial(Metered, Writing)),
    "an epoch's rate by gradients": Setting(EAGER, make=partial(Scheduled, ByGradients, interval="epoch")),
    "a rate by gradients": Setting(EAGER, make=partial(Scheduled, by_gradients, interval="step")),
}
