"""Odd modules whose hook changes at every epoch what their step reads: compiled anew, they agree."""

import collections
import functools
import sys
import types

import torch
import torch.nn.functional as F
import torchmetrics
from torch import nn

from tests.multistep.odd import EAGER, FUSED, ODD
from tests.multistep.training import CLASSES, Classifier

HERE, BETA = sys.modules[__name__], 1.0


class Focal(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = 1.0

    def forward(self, logits, y):
        losses = F.cross_entropy(logits, y, reduction="none")
        return (losses * (1 - torch.exp(-losses)) ** self.gamma).mean()


CRITERION = Focal()


@functools.lru_cache
def settings():
    return types.SimpleNamespace(beta=1.0, count=0)


def factor(epoch):
    return (1.0, 0.1, 1.0)[epoch]


class Renewed(Classifier):
    """Has two heads and a step of its own."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(CLASSES, CLASSES) for _ in range(2)])

    def training_step(self, batch, batch_idx):
        loss = self.loss(*batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss


class ActiveHead(Renewed):
    def on_train_epoch_start(self):
        self.active = self.heads[self.current_epoch % 2]

    def loss(self, x, y):
        return F.cross_entropy(self.active(self(x)), y)


class Rotated(Renewed):
    def __init__(self):
        super().__init__()
        self.turn = collections.deque(self.heads)

    def on_train_epoch_start(self):
        self.turn.rotate(1)

    def loss(self, x, y):
        return F.cross_entropy(self.turn[0](self(x)), y) + 0.1 * F.cross_entropy(self.turn[1](self(x)), y)


class SwapsBlocks(Renewed):
    def on_train_epoch_start(self):
        self.heads = nn.ModuleList([*self.heads][::-1])

    def loss(self, x, y):
        return F.cross_entropy(self.heads[1](torch.tanh(self.heads[0](self(x)))), y)


class SwapsParameters(Renewed):
    def on_train_epoch_start(self):
        one, other = self.heads
        one.weight, other.weight = other.weight, one.weight

    def loss(self, x, y):
        return F.cross_entropy(self.heads[1](torch.tanh(self.heads[0](self(x)))), y)


class FreshStatistics(Renewed):
    def on_train_epoch_start(self):
        self.norm = nn.BatchNorm1d(CLASSES, affine=False)

    def loss(self, x, y):
        return F.cross_entropy(self.norm(self(x)), y)


class GlobalCriterion(Renewed):
    def on_train_epoch_start(self):
        CRITERION.gamma = factor(self.current_epoch)

    def loss(self, x, y):
        return CRITERION(self(x), y)


class CachedSettings(Renewed):
    def on_train_epoch_start(self):
        settings().beta = factor(self.current_epoch)

    def loss(self, x, y):
        return settings().beta * F.cross_entropy(self(x), y)


class CountsInACache(Renewed):
    def on_fit_start(self):
        settings().count = 0

    def loss(self, x, y):
        settings().count += 1
        return F.cross_entropy(self(x), y) / (1 + settings().count)


class DeepSettings(Renewed):
    def __init__(self):
        super().__init__()
        self.settings = types.SimpleNamespace(beta=1.0)
        for _ in range(8):
            self.settings = types.SimpleNamespace(inner=self.settings)

    def innermost(self):
        inner = self.settings
        while hasattr(inner, "inner"):
            inner = inner.inner
        return inner

    def on_train_epoch_start(self):
        self.innermost().beta = factor(self.current_epoch)

    def loss(self, x, y):
        return self.innermost().beta * F.cross_entropy(self(x), y)


class ComposedName(Renewed):
    def on_train_epoch_start(self):
        HERE.BETA = factor(self.current_epoch)

    def loss(self, x, y):
        return getattr(HERE, "be".upper() + "TA") * F.cross_entropy(self(x), y)


class BinaryScore(Renewed):
    """Some minibatches hold values outside of 0 to 1, by which the metric knows logits, and others do not."""

    def __init__(self):
        super().__init__()
        self.score = torchmetrics.classification.BinaryAccuracy()

    def loss(self, x, y):
        self.score(0.3 + x[:, 0] / 3, y % 2)
        self.log("score", self.score, on_step=False, on_epoch=True)
        return F.cross_entropy(self(x), y)


for kind in Renewed.__subclasses__():
    ODD[kind.__name__] = kind, EAGER if kind is CountsInACache else FUSED
