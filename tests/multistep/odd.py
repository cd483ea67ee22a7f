"""Odd modules: each does something in its step, its constructor or its optimizer that a compiled update may not repeat.

By name: a constructor, and the engine that trains it where `fused` would be taken.
"""

import contextlib
import functools
import math
import random
import time
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchmetrics
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from tests.multistep.training import CLASSES, FEATURES, Classifier

FUSED, EAGER, LIGHTNING = "fused", "eager", "lightning"
ODD: dict[str, tuple[Callable[[], LightningModule], str]] = {}
SCALE = 1.0
SEEN: list[Any] = []
OPTIONS = {"scale": 1.0}
NESTED = {"inside": {"calls": 0}}
RNG = np.random.default_rng(0)


def odd(engine: str) -> Callable[[type], type]:
    def add(cls: type) -> type:
        ODD[cls.__name__] = cls, engine
        return cls

    return add


def reset() -> None:
    """Sets all that modules here change outside of themselves to what it was."""
    SEEN.clear()
    NESTED["inside"]["calls"] = 0
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state
    CounterOfTheClass.calls = 0
    MutableDefault.scaled.__defaults__[0].clear()


def loss_of(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


# Random numbers


@odd(FUSED)
class Dropout(Classifier):
    def __init__(self):
        super().__init__()
        self.net.insert(2, nn.Dropout(0.3))


@odd(FUSED)
class NoiseOnInputs(Classifier):
    def training_step(self, batch, batch_idx):
        return loss_of(self, (batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]))


@odd(FUSED)
class MixUp(Classifier):
    def training_step(self, batch, batch_idx):
        order = torch.randperm(len(batch[0]))
        return loss_of(self, batch) + 0.1 * loss_of(self, (batch[0][order], batch[1]))


@odd(EAGER)
class PythonsRandom(Classifier):
    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * (2 if random.random() < 0.5 else 1)


@odd(EAGER)
class NumPysRandom(Classifier):
    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * float(np.random.rand())  # noqa: NPY002


@odd(EAGER)
class NumPysGenerator(Classifier):
    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * float(self.rng.random())


@odd(EAGER)
class PythonsGenerator(Classifier):
    def __init__(self):
        super().__init__()
        self.rng = random.Random(0)

    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * self.rng.random()


@odd(EAGER)
class TorchsGenerator(Classifier):
    def __init__(self):
        super().__init__()
        self.rng = torch.Generator().manual_seed(0)

    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * torch.rand((), generator=self.rng)


@odd(EAGER)
class RandomNumberAsNumber(Classifier):
    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * (2 if torch.rand(()) < 0.5 else 1)


# State


@odd(FUSED)
class BufferInPlace(Classifier):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * batch[0].mean(0))
        return loss_of(self, (batch[0] - self.mean, batch[1]))


@odd(FUSED)
class BufferAssigned(Classifier):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))

    def training_step(self, batch, batch_idx):
        self.mean = 0.9 * self.mean + 0.1 * batch[0].mean(0)
        return loss_of(self, (batch[0] - self.mean, batch[1]))


@odd(FUSED)
class BufferByData(Classifier):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))

    def training_step(self, batch, batch_idx):
        self.mean.data.mul_(0.9).add_(0.1 * batch[0].mean(0))
        return loss_of(self, (batch[0] - self.mean, batch[1]))


@odd(FUSED)
class CountingBuffer(Classifier):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return loss_of(self, batch) / (1 + 0.01 * self.steps)


@odd(EAGER)
class PlainTensorInPlace(Classifier):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(FEATURES)

    def training_step(self, batch, batch_idx):
        self.mean.mul_(0.9).add_(0.1 * batch[0].mean(0))
        return loss_of(self, (batch[0] - self.mean, batch[1]))


@odd(EAGER)
class PlainTensorAssigned(Classifier):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(FEATURES)

    def training_step(self, batch, batch_idx):
        self.mean = 0.9 * self.mean + 0.1 * batch[0].mean(0)
        return loss_of(self, (batch[0] - self.mean, batch[1]))


@odd(FUSED)
class PlainTensorRead(Classifier):
    def __init__(self):
        super().__init__()
        self.weights = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1], weight=self.weights)


@odd(EAGER)
class TensorInAList(Classifier):
    def __init__(self):
        super().__init__()
        self.losses = []

    def training_step(self, batch, batch_idx):
        loss = loss_of(self, batch)
        self.losses.append(loss.detach())
        return loss


@odd(EAGER)
class TensorInAGlobalList(Classifier):
    def training_step(self, batch, batch_idx):
        loss = loss_of(self, batch)
        SEEN.append(loss.detach())
        return loss


@odd(EAGER)
class Counter(Classifier):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def training_step(self, batch, batch_idx):
        self.calls += 1
        return loss_of(self, batch) * (1 + 1 / self.calls)


@odd(EAGER)
class CounterInANamespace(Classifier):
    def __init__(self):
        super().__init__()
        self.memory = types.SimpleNamespace(calls=0)

    def training_step(self, batch, batch_idx):
        self.memory.calls += 1
        return loss_of(self, batch) * (1 + 1 / self.memory.calls)


@odd(EAGER)
class CounterOfTheClass(Classifier):
    calls = 0

    def training_step(self, batch, batch_idx):
        type(self).calls += 1
        return loss_of(self, batch)


@odd(EAGER)
class CounterInNumPy(Classifier):
    def __init__(self):
        super().__init__()
        self.calls = np.zeros(1)

    def training_step(self, batch, batch_idx):
        self.calls += 1
        return loss_of(self, batch) * float(1 + 1 / self.calls[0])


@odd(FUSED)
class TeacherAsAverage(Classifier):
    """A second network that follows the first, as in self-supervised training."""

    def __init__(self):
        super().__init__()
        self.teacher = nn.Linear(FEATURES, CLASSES)
        self.student = nn.Linear(FEATURES, CLASSES)
        self.teacher.requires_grad_(False)

    def training_step(self, batch, batch_idx):
        x = batch[0]
        loss = F.mse_loss(self.student(x), self.teacher(x)) + loss_of(self, batch)
        for t, s in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            t.data.mul_(0.9).add_(s.data, alpha=0.1)
        return loss


@odd(FUSED)
class TeacherInPlace(TeacherAsAverage):
    def training_step(self, batch, batch_idx):
        x = batch[0]
        with torch.no_grad():
            for t, s in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                t.mul_(0.9).add_(s, alpha=0.1)
        return F.mse_loss(self.student(x), self.teacher(x)) + loss_of(self, batch)


@odd(EAGER)
class CounterDeepInAGlobal(Classifier):
    """A fallback has to find it as it was before the trial."""

    def training_step(self, batch, batch_idx):
        NESTED["inside"]["calls"] += 1
        return loss_of(self, batch) * (1 + 1 / NESTED["inside"]["calls"])


@odd(EAGER)
class MetricInADictionary(Classifier):
    """Which Lightning does not find among its submodules."""

    def __init__(self):
        super().__init__()
        self.metrics = {"mean": torchmetrics.MeanMetric()}

    def training_step(self, batch, batch_idx):
        loss = loss_of(self, batch)
        self.metrics["mean"].update(loss.detach())
        return loss


@odd(EAGER)
class SeedsTorch(Classifier):
    def training_step(self, batch, batch_idx):
        torch.manual_seed(0)
        return loss_of(self, batch) + torch.rand(())


# What a step reads and does


@odd(EAGER)
class ReadsGlobalStep(Classifier):
    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * min(1.0, (self.global_step + 1) / 30)


@odd(EAGER)
class ReadsTheEpoch(Classifier):
    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * (1 + self.current_epoch)


@odd(EAGER)
class ReadsTheTrainer(Classifier):
    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * (1 + self.trainer.global_step / 10)


@odd(EAGER)
class ReadsMetrics(Classifier):
    def training_step(self, batch, batch_idx):
        loss = loss_of(self, batch)
        self.log("loss", loss)
        return loss * (1 + float(self.trainer.callback_metrics.get("loss", 0.0)))


@odd(EAGER)
class ReadsTheRateOfTheOptimizer(Classifier):
    def training_step(self, batch, batch_idx):
        self.log("lr", self.optimizers().param_groups[0]["lr"])
        return loss_of(self, batch)


@odd(EAGER)
class UsesBatchIdx(Classifier):
    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * (2 if batch_idx % 3 == 0 else 1)


@odd(EAGER)
class LogsBatchIdx(Classifier):
    def training_step(self, batch, batch_idx):
        self.log("i", float(batch_idx))
        return loss_of(self, batch)


@odd(FUSED)
class WithoutBatchIdx(Classifier):
    def training_step(self, batch):
        return loss_of(self, batch)


@odd(EAGER)
class BranchesOnValues(Classifier):
    def training_step(self, batch, batch_idx):
        loss = loss_of(self, batch)
        return loss * 2 if loss > 1.2 else loss


@odd(EAGER)
class BranchesOnANumber(Classifier):
    def training_step(self, batch, batch_idx):
        loss = loss_of(self, batch)
        self.log("loss", loss.item())
        return loss


@odd(EAGER)
class Prints(Classifier):
    def training_step(self, batch, batch_idx):
        print("step")
        return loss_of(self, batch)


@odd(EAGER)
class PrintsByLightning(Classifier):
    def training_step(self, batch, batch_idx):
        self.print("step")
        return loss_of(self, batch)


@odd(EAGER)
class PrintsInATry(Classifier):
    def training_step(self, batch, batch_idx):
        with contextlib.suppress(Exception):
            print("step")
        return loss_of(self, batch)


@odd(EAGER)
class LogsTheTime(Classifier):
    def training_step(self, batch, batch_idx):
        self.log("time", time.perf_counter())
        return loss_of(self, batch)


@odd(EAGER)
class SkipsSteps(Classifier):
    def training_step(self, batch, batch_idx):
        return None if batch_idx % 2 else loss_of(self, batch)


@odd(EAGER)
class WritesToTheLogger(Classifier):
    def training_step(self, batch, batch_idx):
        if self.logger is not None:
            self.logger.log_metrics({"x": 1.0})
        return loss_of(self, batch)


@odd(EAGER)
class ReadsGradients(Classifier):
    def training_step(self, batch, batch_idx):
        gradient = self.net[0].weight.grad
        return loss_of(self, batch) * (1.0 if gradient is None else 1 + gradient.norm())


# What is in a step


@odd(FUSED)
class Penalty(Classifier):
    def training_step(self, batch, batch_idx):
        penalty = sum(p.square().sum() for p in self.parameters())
        self.log("penalty", penalty)
        return {"loss": loss_of(self, batch) + 1e-3 * penalty, "penalty": penalty.detach()}


@odd(FUSED)
class GradientPenalty(Classifier):
    def training_step(self, batch, batch_idx):
        x = batch[0].requires_grad_()
        (gradient,) = torch.autograd.grad(self(x).square().sum(), x, create_graph=True)
        return loss_of(self, batch) + 0.01 * gradient.square().mean()


@odd(FUSED)
class DerivativeByFunc(Classifier):
    def training_step(self, batch, batch_idx):
        slope = torch.func.vmap(torch.func.grad(lambda x: self(x[None]).sum()))(batch[0])
        return loss_of(self, batch) + 0.01 * slope.square().mean()


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


@odd(FUSED)
class CustomFunction(Classifier):
    def forward(self, x):
        return Doubling.apply(self.net(x))


@odd(FUSED)
class Checkpointed(Classifier):
    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=False)


@odd(FUSED)
class BatchNorm(Classifier):
    def __init__(self):
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(12))


@odd(FUSED)
class LayerNormAndGelu(Classifier):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, CLASSES))


@odd(FUSED)
class TiedWeights(Classifier):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.down.weight = self.up.weight

    def forward(self, x):
        return self.net(self.down(torch.tanh(self.up(x))))


@odd(FUSED)
class WeightNorm(Classifier):
    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.net[0])


@odd(FUSED)
class SpectralNorm(Classifier):
    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.spectral_norm(self.net[0])


@odd(EAGER)
class ForwardHook(Classifier):
    def __init__(self):
        super().__init__()
        self.net[0].register_forward_hook(lambda module, args, output: output * 2)


@odd(EAGER)
class GradientHook(Classifier):
    def __init__(self):
        super().__init__()
        self.net[0].weight.register_hook(lambda gradient: gradient * 2)


@odd(EAGER)
class LambdaOfSelf(Classifier):
    def __init__(self):
        super().__init__()
        self.compute = lambda x: self.net(x)

    def forward(self, x):
        return self.compute(x)


@odd(FUSED)
class MethodInAnAttribute(Classifier):
    def __init__(self):
        super().__init__()
        self.compute = functools.partial(F.cross_entropy, label_smoothing=0.1)

    def training_step(self, batch, batch_idx):
        return self.compute(self(batch[0]), batch[1])


@odd(FUSED)
class UnusedParameter(Classifier):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 3)


@odd(FUSED)
class FrozenPart(Classifier):
    def __init__(self):
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True))
        self.net[0].requires_grad_(False)


@odd(FUSED)
class FrozenInTheOptimizer(Classifier):
    def __init__(self):
        super().__init__()
        self.net[0].requires_grad_(False)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@odd(FUSED)
class ParametersInAList(Classifier):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(FEATURES, FEATURES) for _ in range(2)])
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(FEATURES)) for _ in range(2)])

    def forward(self, x):
        for layer, scale in zip(self.layers, self.scales, strict=True):
            x = torch.tanh(layer(x)) * scale
        return self.net(x)


@odd(FUSED)
class Doubles(Classifier):
    def __init__(self):
        super().__init__()
        self.double()

    def training_step(self, batch, batch_idx):
        return loss_of(self, (batch[0].double(), batch[1]))


@odd(EAGER)
class Brain16(Classifier):
    def __init__(self):
        super().__init__()
        self.bfloat16()
        self.shift = torch.ones(FEATURES, dtype=torch.bfloat16)

    def training_step(self, batch, batch_idx):
        return loss_of(self, (batch[0].bfloat16() + self.shift, batch[1])).float()


@odd(FUSED)
class Complex(Classifier):
    def __init__(self):
        super().__init__(lambda parameters: torch.optim.Adam(parameters, lr=1e-2))
        self.phase = nn.Parameter(torch.ones(FEATURES, dtype=torch.complex64))

    def forward(self, x):
        return self.net((x * self.phase).real)


@odd(EAGER)
class SparseGradients(Classifier):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(CLASSES, FEATURES, sparse=True)

    def training_step(self, batch, batch_idx):
        return loss_of(self, (batch[0] + 0.01 * self.table(batch[1]), batch[1]))


@odd(FUSED)
class Embedded(Classifier):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(CLASSES, FEATURES, padding_idx=0)

    def training_step(self, batch, batch_idx):
        return loss_of(self, (batch[0] + 0.01 * self.table(batch[1]), batch[1]))


@odd(FUSED)
class InPlaceOperations(Classifier):
    def forward(self, x):
        y = self.net[0](x)
        y.mul_(0.5).tanh_()
        return self.net[2](y)


@odd(EAGER)
class AugmentsItsBatchInPlace(Classifier):
    def training_step(self, batch, batch_idx):
        x = batch[0]
        x.mul_(0.5)
        return loss_of(self, batch)


@odd(FUSED)
class Attention(Classifier):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.embed = nn.Linear(1, 4)

    def forward(self, x):
        tokens = self.embed(x[..., None])
        attended, _ = self.attend(tokens, tokens, tokens)
        return self.net(attended.mean(-1))


@odd(FUSED)
class Convolution(Classifier):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3, padding=1)

    def forward(self, x):
        return self.net(self.conv(x[:, None]).mean(1))


@odd(FUSED)
class Recurrent(Classifier):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(1, FEATURES, batch_first=True)

    def forward(self, x):
        return self.net(self.rnn(x[..., None])[0][:, -1])


@odd(FUSED)
class LongShortTermMemory(Classifier):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(1, FEATURES, batch_first=True)

    def forward(self, x):
        return self.net(self.rnn(x[..., None])[0][:, -1])


@odd(EAGER)
class RecurrentState(Classifier):
    """Keeps the state of the last minibatch."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(1, FEATURES, batch_first=True)
        self.last = None

    def forward(self, x):
        out, last = self.rnn(x[..., None], self.last)
        self.last = last.detach()
        return self.net(out[:, -1])


@odd(EAGER)
class NonzeroInside(Classifier):
    def training_step(self, batch, batch_idx):
        chosen = batch[1] < 2
        return loss_of(self, batch) + 0.1 * self(batch[0][chosen]).square().mean()


@odd(FUSED)
class Masked(Classifier):
    def training_step(self, batch, batch_idx):
        each = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
        return torch.where(batch[1] < 2, each, 0.5 * each).mean()


@odd(FUSED)
class Sorts(Classifier):
    def training_step(self, batch, batch_idx):
        each = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
        return each.sort(descending=True).values[:8].mean() + each.topk(3).values.mean() + each.cumsum(0).mean()


@odd(FUSED)
class DetachesAPart(Classifier):
    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        return loss_of(self, batch) + F.mse_loss(logits, logits.detach().roll(1, 0))


@odd(EAGER)
class NotDifferentiable(Classifier):
    """Has parameters without a gradient in some minibatches alone."""

    def training_step(self, batch, batch_idx):
        loss = loss_of(self, batch)
        if batch[0].sum() > 0:
            loss = loss + self.net[0].bias.square().sum()
        return loss


@odd(EAGER)
class LossOfNumPy(Classifier):
    def training_step(self, batch, batch_idx):
        weight = np.asarray(batch[0]).mean()
        return loss_of(self, batch) * float(1 + weight)


@odd(FUSED)
class ReadsAGlobal(Classifier):
    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * SCALE * OPTIONS["scale"]


@odd(EAGER)
class DrawsFromAGlobalGenerator(Classifier):
    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * float(RNG.random())


@odd(FUSED)
class Compiled(Classifier):
    """What is a scripted function for torch."""

    def forward(self, x):
        return self.net(x * math.pi)


@odd(FUSED)
class SwallowsErrors(Classifier):
    def training_step(self, batch, batch_idx):
        try:
            scale = float("1.5")
        except ValueError:
            scale = 1.0
        return loss_of(self, batch) * scale


@odd(EAGER)
class SwallowsTheTrainer(Classifier):
    def training_step(self, batch, batch_idx):
        try:
            scale = 1 + self.trainer.global_step
        except Exception:
            scale = 1
        return loss_of(self, batch) * scale


@odd(FUSED)
class FillsAListElsewhere(Classifier):
    """What its other hooks change is no matter of the step."""

    def __init__(self):
        super().__init__()
        self.history = []

    def on_train_epoch_end(self):
        self.history.append(self.current_epoch)


# Logging


@odd(FUSED)
class MetricOnTheEpoch(Classifier):
    def __init__(self):
        super().__init__()
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(CLASSES)
        self.mean = torchmetrics.MeanMetric()

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.accuracy(logits, batch[1])
        self.mean.update(loss)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.log("mean", self.mean, on_step=True, on_epoch=True)
        return loss


@odd(FUSED)
class ValuesOfMetrics(Classifier):
    def __init__(self):
        super().__init__()
        self.metrics = torchmetrics.MetricCollection(
            {
                "accuracy": torchmetrics.classification.MulticlassAccuracy(CLASSES),
                "f1": torchmetrics.classification.MulticlassF1Score(CLASSES),
            },
            prefix="train/",
        )

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log_dict(self.metrics(logits, batch[1]), on_step=False, on_epoch=True)
        return F.cross_entropy(logits, batch[1])


@odd(FUSED)
class CollectionOnTheEpoch(ValuesOfMetrics):
    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.metrics.update(logits, batch[1])
        self.log_dict(self.metrics, on_step=False, on_epoch=True)
        return F.cross_entropy(logits, batch[1])


@odd(EAGER)
class ComputesWithAMetric(MetricOnTheEpoch):
    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        accuracy = self.accuracy(logits, batch[1])
        return F.cross_entropy(logits, batch[1]) * (2 - accuracy)


@odd(EAGER)
class ComputesAMetric(MetricOnTheEpoch):
    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.accuracy.update(logits, batch[1])
        self.log("so far", self.accuracy.compute())
        return F.cross_entropy(logits, batch[1])


class BatchCount(torchmetrics.Metric):
    """Counts its updates: it must not be given many minibatches at once."""

    def __init__(self):
        super().__init__()
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, x):
        self.count += 1

    def compute(self):
        return self.count


@odd(FUSED)
class CountingMetric(Classifier):
    def __init__(self):
        super().__init__()
        self.batches = BatchCount()

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.batches.update(logits)
        self.log("batches", self.batches, on_step=False, on_epoch=True)
        return F.cross_entropy(logits, batch[1])


@odd(FUSED)
class LogsEverything(Classifier):
    def training_step(self, batch, batch_idx):
        loss = loss_of(self, batch)
        self.log_dict({"a": loss, "b": 2 * loss.detach()}, on_epoch=True, on_step=True)
        self.log("number", 3.5)
        self.log("whole", 3)
        self.log("max", loss, reduce_fx="max", on_epoch=True, on_step=False)
        self.log("min", loss, reduce_fx=torch.min, on_epoch=True, on_step=False)
        self.log("sum", loss, reduce_fx="sum", on_epoch=True, on_step=False)
        self.log("right", (self(batch[0]).argmax(1) == batch[1]).sum(), on_epoch=True, on_step=False)
        self.log("sized", loss, batch_size=3, on_epoch=True, on_step=False)
        return loss


@odd(EAGER)
class LogsAtTimes(Classifier):
    def training_step(self, batch, batch_idx):
        loss = loss_of(self, batch)
        if batch_idx % 5 == 0:
            self.log("now and then", loss, on_epoch=True)
        return loss


class Inner(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(FEATURES, FEATURES)

    def forward(self, x):
        return self.net(x)


class InnerReadsStep(Inner):
    def forward(self, x):
        return self.net(x) * (1 + self.global_step)


@odd(EAGER)
class InnerModuleReadsStep(Classifier):
    def __init__(self):
        super().__init__()
        self.inner = InnerReadsStep()

    def forward(self, x):
        return self.net(self.inner(x))


# Hooks


@odd(LIGHTNING)
class OwnBackward(Classifier):
    def backward(self, loss):
        (2 * loss).backward()


@odd(LIGHTNING)
class OwnOptimizerStep(Classifier):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        optimizer.step(closure=optimizer_closure)
        optimizer.param_groups[0]["lr"] *= 0.99


@odd(LIGHTNING)
class WarmsUpInAHook(Classifier):
    def on_train_batch_start(self, batch, batch_idx):
        self.trainer.optimizers[0].param_groups[0]["lr"] = 0.1 * min(1, (batch_idx + 1) / 10)


@odd(LIGHTNING)
class ReadsGradientsInAHook(Classifier):
    def on_before_optimizer_step(self, optimizer):
        self.log("norm", self.net[0].weight.grad.norm())


@odd(LIGHTNING)
class ManualOptimization(Classifier):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss_of(self, batch))
        optimizer.step()


@odd(LIGHTNING)
class Lbfgs(Classifier):
    def __init__(self):
        super().__init__(lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=3))


@odd(EAGER)
class TransfersItself(Classifier):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] * 2, batch[1]


@odd(FUSED)
class EndsEpochs(Classifier):
    def on_train_epoch_end(self):
        self.log("epoch", float(self.current_epoch))


@odd(FUSED)
class OwnFitStart(Classifier):
    def on_fit_start(self):
        self.started = True


# Optimizers of one's own


class Plain(torch.optim.Optimizer):
    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad.sign(), alpha=-group["lr"])
        return loss


class Counting(Plain):
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["calls"] = self.state[p].get("calls", 0) + 1
                with torch.no_grad():
                    p.mul_(1 - 0.01 / self.state[p]["calls"])
        return loss


class CountingInTheGroup(Plain):
    def step(self, closure=None):
        for group in self.param_groups:
            group["calls"] = group.get("calls", 0) + 1
            group["lr"] = 0.1 / group["calls"]
        return super().step(closure)


class CountingItself(Plain):
    def __init__(self, parameters, lr):
        super().__init__(parameters, lr)
        self.calls = 0

    def step(self, closure=None):
        self.calls += 1
        self.param_groups[0]["lr"] = 0.1 / self.calls
        return super().step(closure)


class ByData(Plain):
    def step(self, closure=None):
        loss = closure() if closure else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data.add_(p.grad.data, alpha=-group["lr"])
        return loss


class Shrinking(torch.optim.SGD):
    """A subclass that does more than its parent."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(0.999)
        return loss


class KeepingGradients(torch.optim.SGD):
    """Begins with half of the last gradient."""

    def zero_grad(self, set_to_none=True):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.mul_(0.5)


@odd(EAGER)
class PatchedStep(Classifier):
    """Its optimizer's step is somebody else's, and wrapped once more by a schedule."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        original = optimizer.step

        def step(self, closure=None):
            loss = original(closure)
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.mul_(0.99)
            return loss

        optimizer.step = types.MethodType(step, optimizer)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


for name, (optimizer, engine) in {
    "OwnOptimizer": (Plain, FUSED),
    "OptimizerCounts": (Counting, EAGER),
    "OptimizerCountsInTheGroup": (CountingInTheGroup, EAGER),
    "OptimizerCountsItself": (CountingItself, EAGER),
    "OptimizerWritesByData": (ByData, FUSED),
    "OptimizerKeepsGradients": (KeepingGradients, EAGER),
    "SubclassOfAnOptimizer": (Shrinking, FUSED),
}.items():
    ODD[name] = functools.partial(Classifier, functools.partial(optimizer, lr=0.05)), engine


# Modules that are known by who they are, and those that hide others

SCALES: dict[Any, float] = {}
BY_MODULE: Any = weakref.WeakKeyDictionary()


class Scaled(Classifier):
    def __init__(self):
        super().__init__()
        SCALES[id(self)] = 0.5
        BY_MODULE[self] = 0.5


@odd(EAGER)
class LooksItselfUpById(Scaled):
    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * SCALES.get(id(self), 1.0)


@odd(EAGER)
class LooksItselfUp(Scaled):
    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * BY_MODULE.get(self, 1.0)


@odd(EAGER)
class ReachesItselfWeakly(Classifier):
    def __init__(self):
        super().__init__()
        self.itself = weakref.ref(self)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.itself().net(batch[0]), batch[1])


@odd(EAGER)
class HidesAModule(Classifier):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.BatchNorm1d(FEATURES)]

    def training_step(self, batch, batch_idx):
        return loss_of(self, (self.hidden[0](batch[0]), batch[1]))


@odd(EAGER)
class EnclosesAModule(Classifier):
    def __init__(self):
        super().__init__()
        norm = nn.BatchNorm1d(FEATURES)
        self.prepare = lambda x: norm(x)

    def training_step(self, batch, batch_idx):
        return loss_of(self, (self.prepare(batch[0]), batch[1]))


class Hook:
    """A forward hook that is an object."""

    def __call__(self, module, args, output):
        return 2 * output


@odd(EAGER)
class CallableHook(Classifier):
    def __init__(self):
        super().__init__()
        self.net[0].register_forward_hook(Hook())


@odd(EAGER)
class SeedsTheGenerator(Classifier):
    def training_step(self, batch, batch_idx):
        torch.manual_seed(0)
        return loss_of(self, (batch[0] + torch.randn_like(batch[0]), batch[1]))


@odd(FUSED)
class OneHotTargets(Classifier):
    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), F.one_hot(batch[1], CLASSES).float())


@odd(FUSED)
class BinaryTargets(Classifier):
    def training_step(self, batch, batch_idx):
        targets = torch.zeros(len(batch[1]), CLASSES).scatter(1, batch[1][:, None], 1.0)
        return F.binary_cross_entropy(torch.sigmoid(self(batch[0])), targets)


# Optimizers that call their closure, and what else fresh eyes found


class Sharpness(torch.optim.Optimizer):
    """Evaluates the loss twice: here, and uphill of here (Foret et al. 2021, arXiv:2010.01412)."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        held = [(p, p.grad.clone()) for group in self.param_groups for p in group["params"]]
        with torch.no_grad():
            for p, gradient in held:
                p.add_(0.05 * gradient)
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            for p, gradient in held:
                p.sub_(0.05 * gradient).sub_(self.param_groups[0]["lr"] * p.grad)
        return loss


class LookingAhead(Plain):
    """Moves the weights before it asks for their gradients."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(0.99)
        if closure is not None:
            with torch.enable_grad():
                closure()
        return super().step()


class Polyak(Plain):
    """Steps as far as the loss says."""

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * loss * p.grad)
        return loss


class RareEvents(torchmetrics.Metric):
    """Minibatches in which anything is rare: a sum, but not of the examples."""

    def __init__(self):
        super().__init__()
        self.add_state("n", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, x):
        self.n += (x > 2.2).any()

    def compute(self):
        return self.n


@odd(FUSED)
class CountsRareEvents(Classifier):
    def __init__(self):
        super().__init__()
        self.rare = RareEvents()

    def training_step(self, batch, batch_idx):
        self.rare(batch[0])
        self.log("rare", self.rare, on_step=False, on_epoch=True)
        return loss_of(self, batch)


@odd(EAGER)
class KeepsItsLog(Classifier):
    def __init__(self):
        super().__init__()
        self.report = self.log

    def training_step(self, batch, batch_idx):
        loss = loss_of(self, batch)
        self.report("kept", loss, on_epoch=True)
        return loss


@odd(EAGER)
class OverridesLog(Classifier):
    def log(self, name, value, *args, **kwargs):
        super().log(f"mine/{name}", value, *args, **kwargs)


def note(value):
    SEEN.append(float(value.detach()))
    return value


REGISTRY = {"note": note}


@odd(EAGER)
class FindsAFunctionInADictionary(Classifier):
    def training_step(self, batch, batch_idx):
        return REGISTRY["note"](loss_of(self, batch)) * (1 + len(SEEN) % 2)


@odd(EAGER)
class ImportsWithin(Classifier):
    def training_step(self, batch, batch_idx):
        from tests.multistep.odd import SEEN as seen

        seen.append(1)
        return loss_of(self, batch) * (1 + len(seen) % 2)


@odd(EAGER)
class MutableDefault(Classifier):
    def scaled(self, loss, calls=[]):  # noqa: B006
        calls.append(1)
        return loss * (1 + len(calls) % 2)

    def training_step(self, batch, batch_idx):
        return self.scaled(loss_of(self, batch))


@odd(EAGER)
class ChangesWhatEnclosesIt(Classifier):
    def __init__(self):
        super().__init__()
        number = 0

        def count():
            nonlocal number
            number += 1
            return 1 + number % 2

        self.count = count

    def training_step(self, batch, batch_idx):
        return loss_of(self, batch) * self.count()


@odd(EAGER)
class StopsByItself(Classifier):
    def training_step(self, batch, batch_idx):
        if self.global_step == 25:
            self.trainer.should_stop = True
        return loss_of(self, batch)


for name, (optimizer, engine) in {"Sharp": (Sharpness, EAGER), "LooksAhead": (LookingAhead, EAGER)}.items():
    ODD[name] = functools.partial(Classifier, functools.partial(optimizer, lr=0.05)), engine
ODD["StepsByItsLoss"] = functools.partial(Classifier, functools.partial(Polyak, lr=0.05)), FUSED
