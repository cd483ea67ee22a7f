"""Odd modules that keep something where copies of the module keep it, too: in functions, classes, and on tensors."""

import copy
import enum
import itertools
import random
import types

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.multistep.odd import EAGER, FUSED, loss_of
from tests.multistep.reached import step
from tests.multistep.training import Classifier

# What functions enclose, or have for a default


def by_torch():
    generator = torch.Generator().manual_seed(0)
    return lambda loss: loss * (1 + torch.rand((), generator=generator))


def by_numpy():
    generator = np.random.default_rng(0)
    return lambda loss: loss * (1 + float(generator.random()))


def by_python():
    generator = random.Random(0)
    return lambda loss: loss * (1 + generator.random())


def by_a_count():
    numbers = itertools.count()
    return lambda loss: loss * (1 + next(numbers) % 2)


def by_a_cycle():
    factors = itertools.cycle([1.0, 2.0])
    return lambda loss: loss * next(factors)


def by_a_namespace():
    seen = types.SimpleNamespace(calls=0)

    def scaled(loss):
        seen.calls += 1
        return loss * (1 + seen.calls % 2)

    return scaled


def by_a_tensor():
    mean = torch.zeros(())

    def scaled(loss):
        mean.lerp_(loss.detach(), 0.1)
        return loss * (1 + mean)

    return scaled


def by_a_default():
    def scaled(loss, mean=torch.zeros(())):  # noqa: B008
        mean.lerp_(loss.detach(), 0.1)
        return loss * (1 + mean)

    return scaled


def by_an_attribute():
    def scaled(loss):
        scaled.calls += 1
        return loss * (1 + scaled.calls % 2)

    scaled.calls = 0
    return scaled


class Single:
    """There is one of it."""

    def __init__(self):
        self.calls = 0

    def __deepcopy__(self, memo):
        return self

    def __call__(self, loss):
        self.calls += 1
        return loss * (1 + self.calls % 2)


ENCLOSED = (by_torch, by_numpy, by_python, by_a_count, by_a_cycle, by_a_namespace, by_a_tensor, by_a_default)
for make in (*ENCLOSED, by_an_attribute, Single):

    def keep(module, make=make):
        module.scale = [make()]

    def scales(self, batch):
        return self.scale[0](loss_of(self, batch))

    scales.__name__ = f"scales_{make.__name__}"
    step(EAGER, keep)(scales)


def numbered(module):
    type(module).numbers = itertools.count()


@step(EAGER, numbered)
def counts_in_its_class(self, batch):
    return loss_of(self, batch) * (1 + next(self.numbers) % 2)


class Phase(enum.Enum):
    WARM = 1

    @property
    def factor(self):
        return 1 + getattr(self, "calls", 0) / 100


def with_phase(module):
    vars(Phase.WARM).pop("calls", None)
    module.phase = Phase.WARM


@step(EAGER, with_phase)
def counts_in_a_member(self, batch):
    loss = loss_of(self, batch) * self.phase.factor
    self.phase.calls = getattr(self.phase, "calls", 0) + 1
    return loss


def with_buffer(module):
    module.register_buffer("mean", torch.zeros(()))
    module.mean.calls = 0


@step(EAGER, with_buffer)
def counts_on_a_buffer(self, batch):
    self.mean.calls += 1
    return loss_of(self, batch) * (1 + self.mean.calls % 2)


class Marking(Classifier):
    def training_step(self, batch, batch_idx):
        factor = getattr(batch[0], "seen", 1.0)
        batch[0].seen = factor / 2
        return super().training_step(batch, batch_idx) * factor


class Asking(Classifier):
    def training_step(self, batch, batch_idx):
        factor = 2 if batch[0].requires_grad else 1
        batch[0].requires_grad_()
        return super().training_step(batch, batch_idx) * factor


class Forgetful:
    """A phase, of which copies know nothing."""

    def __init__(self):
        self.factor = 1.0

    def __deepcopy__(self, memo):
        return Forgetful()


class Phased(Classifier):
    def __init__(self):
        super().__init__()
        self.phases = Forgetful()

    def on_train_epoch_start(self):
        self.phases.factor = 1.0 + self.current_epoch

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * self.phases.factor


# What torch itself rewinds


@step(EAGER)
def draws_in_a_fork(self, batch):
    with torch.random.fork_rng(devices=[]):
        torch.randn_like(batch[0])
    return loss_of(self, batch)


@step(EAGER, lambda module: late(module))
def checkpoints_noise_that_begins_late(self, batch):
    def noisy(x):
        return self(x + after_some(self, torch.randn_like(x)))

    return F.cross_entropy(checkpoint(noisy, batch[0], use_reentrant=False), batch[1])


# What is computed late, so that a trial does not see it


def late(module):
    module.register_buffer("updates", torch.zeros(()))


def after_some(module, term):
    module.updates += 1
    return (module.updates > 20) * term


@step(FUSED, late)
def adds_the_greatest_logit_late(self, batch):
    logits = self(batch[0])
    return F.cross_entropy(logits, batch[1]) + after_some(self, logits.max(1)[0].mean())


@step(FUSED, late)
def adds_the_two_greatest_logits_late(self, batch):
    logits = self(batch[0])
    return F.cross_entropy(logits, batch[1]) + after_some(self, logits.topk(2, 1)[0].square().mean())


def with_complex(module):
    late(module)
    module.k = nn.Parameter(torch.randn(4, 3, dtype=torch.cfloat))


@step(FUSED, with_complex)
def adds_complex_products_late(self, batch):
    spectrum = torch.fft.rfft(batch[0])
    return loss_of(self, batch) + after_some(self, (spectrum @ self.k).abs().mean() + (spectrum @ self.k).imag.mean())


def with_others(module):
    late(module)
    module.others = copy.deepcopy(module.net)
    parameters = [*module.net.parameters()]
    module.configure_optimizers = lambda: torch.optim.SGD(parameters, lr=0.1)


@step(FUSED, with_others)
def logs_a_penalty_of_what_no_optimizer_holds(self, batch):
    penalty = sum(p.square().sum() * (2 if p.requires_grad else 1) for p in self.others.parameters())
    self.log("penalty", after_some(self, penalty))
    return loss_of(self, batch)


@step(FUSED, late)
def adds_roots_of_differences_that_vanish_late(self, batch):
    x = batch[0]
    other = torch.where(self.updates < 20, x * (1 + torch.sigmoid(x)), x)
    rest = torch.sqrt(other.square() - x.square() + 0 * self.updates)
    side = torch.sign(x[:, 0] * other[:, 1] - x[:, 1] * other[:, 0])
    return loss_of(self, (x + 0.1 * rest.detach(), batch[1])) + after_some(self, side.mean())


@step(FUSED)
def logs_quotients_rounded_down(self, batch):
    grid = (batch[0] * 10).round() * 0.1
    divisors = torch.full_like(grid, 0.1)
    for name, found in {
        "operator": grid // 0.1,
        "tensors": torch.floor_divide(grid, divisors),
        "mode": torch.div(grid, -divisors, rounding_mode="floor"),
        "double": grid.double() // 0.1,
        "whole": (batch[1] - 2) // 0.3,
        "of integers": (batch[1] - 2) // 2,
        "of tensors of integers": torch.floor_divide(batch[1], torch.full_like(batch[1], 2)),
        "by zero": (1 + grid.abs()) // 0.0,
    }.items():
        self.log(name, found.double().mean())
    return loss_of(self, batch)


@step(FUSED)
def logs_remainders_of_large_numbers(self, batch):
    large = 1e3 * (1e3 + batch[0].abs())
    self.log("most", torch.remainder(large, 2 * torch.pi).amax())
    self.log("least", (large % -7.0).amin())
    return loss_of(self, batch)
