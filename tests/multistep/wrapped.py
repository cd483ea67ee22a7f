"""Settings whose methods, metrics and hooks pass for something else than they are."""

import copy
import datetime
import functools
from functools import partial

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.callbacks import Timer
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.aggregation import MeanMetric, RunningSum
from torchmetrics.classification import MultilabelRankingLoss

from multistep import Calls
from tests.multistep.settings import EAGER, LIGHTNING, SETTINGS, Scheduled, Setting
from tests.multistep.training import CLASSES, FEATURES, SIZE, Classifier, examples, loader


def wrapping(hook, change, owner=LightningModule):
    """Returns a hook that looks like that of `owner`, and changes the module besides."""

    @functools.wraps(getattr(owner, hook))
    def wrapped(self, *args, **kwargs):
        result = getattr(owner, hook)(self, *args, **kwargs)
        changed = change(self if isinstance(self, LightningModule) else args[1], args)
        return result if changed is None else changed

    return wrapped


def decay(module, _args):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.99)


def halve(_module, args):
    x, y = args[0]
    return [x / 2, y]


def overriding(hook, change=decay):
    return type("Overriding", (Classifier,), {hook: wrapping(hook, change)})


class Decaying(Callback):
    on_train_batch_end = wrapping("on_train_batch_end", decay, Callback)


class Clamped(torch.optim.SGD):
    """Has a step that passes for torch's."""

    @functools.wraps(torch.optim.SGD([nn.Parameter(torch.zeros(1))]).step.__func__)
    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.clamp_(-0.3, 0.3)
        return loss


@functools.wraps(torch.optim.lr_scheduler.StepLR.get_lr)
def growing(number):
    growing.numbers.append(number)
    return 1.0 + len(growing.numbers) % 3


def by_calls(optimizer):
    growing.numbers = []
    return LambdaLR(optimizer, growing)


class Hooked(Classifier):
    """Counts in a hook that passes for torch's."""

    def __init__(self):
        super().__init__()
        self.times = 0

        @functools.wraps(F.relu)
        def hook(*_):
            self.times += 1

        self.net.register_forward_hook(hook)

    def on_train_epoch_end(self):
        self.log("times", float(self.times))


class Stateful(torch.optim.SGD):
    """Keeps state that belongs to no parameter."""

    def step(self, closure=None):
        loss = super().step(closure)
        kept = self.state["of all"]
        kept["norm"] = 0.9 * kept.get("norm", torch.zeros(())) + self.param_groups[0]["params"][0].detach().norm()
        return loss


class Kept(Classifier):
    def on_train_epoch_end(self):
        self.log("norm", self.optimizers().state["of all"]["norm"])


class Hiding(Classifier):
    """Has a second network, which moves after the first, and which one of its methods does not list."""

    def __init__(self):
        super().__init__()
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        self.teacher.register_buffer("times", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            for mine, other in zip(self.net.parameters(), self.teacher.parameters(), strict=True):
                other.lerp_(mine, 0.05)
            self.teacher.times.add_(1)
        return super().training_step(batch, batch_idx)


def hiding(method):
    def listed(self, *args, **kwargs):
        return (each for each in getattr(nn.Module, method)(self, *args, **kwargs) if "teacher" not in each[0])

    return type("Hiding", (Hiding,), {method: listed})


class Keyed:
    """Minibatches in dictionaries whose keys are equal, and yet not the same."""

    def __init__(self):
        self.minibatches = [*loader(shuffle=False)]

    def __len__(self):
        return len(self.minibatches)

    def __iter__(self):
        for number, (x, y) in enumerate(self.minibatches):
            yield {1.0 if number % 2 else True: x}, y


class ByKey(Classifier):
    def training_step(self, batch, batch_idx):
        ((key, x),) = batch[0].items()
        return super().training_step((x, batch[1]), batch_idx) * (1 + isinstance(key, bool))


class Asserting(Classifier):
    """Scales by whether an assertion holds."""

    def training_step(self, batch, batch_idx):
        torch._assert_async(batch[1].sum() >= 0)
        return super().training_step(batch, batch_idx)


class Holding(Classifier):
    """Changes a tensor that only a function encloses."""

    def __init__(self):
        super().__init__()
        seen = torch.zeros(CLASSES)
        self.see = lambda y: seen.add_(F.one_hot(y, CLASSES).sum(0)).sum()

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) / (1 + self.see(batch[1]) / FEATURES)


# Gradients that are left for hooks


class StepsAgain(Classifier):
    def on_train_epoch_end(self):
        self.trainer.optimizers[0].step()


class GoesBackAgain(Classifier):
    def on_train_epoch_end(self):
        sum(p.square().sum() for p in self.parameters()).backward()
        self.trainer.optimizers[0].step()


# Metrics whose minibatches seem to add up


class Ranking(Classifier):
    def __init__(self):
        super().__init__()
        self.ranking = MultilabelRankingLoss(CLASSES)

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.ranking.update(self(x).sigmoid(), y)
        self.log("ranking", self.ranking, on_step=False, on_epoch=True)
        return F.binary_cross_entropy_with_logits(self(x), y.float())


def few_labels():
    generator = torch.Generator().manual_seed(0)
    y = (torch.rand(4096, CLASSES, generator=generator) < 0.03).long()
    return DataLoader(TensorDataset(torch.randn(4096, FEATURES, generator=generator), y), SIZE)


class Rare(Classifier):
    def __init__(self):
        super().__init__()
        self.rare = RunningSum(window=8)

    def training_step(self, batch, batch_idx):
        self.rare.update((batch[0] > 3.5).any(1).float())
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self):
        self.log("rare", self.rare.compute())


def with_late_ones():
    x, y = examples(40 * SIZE).tensors
    x = x.clamp(-3, 3)
    x[25 * SIZE :: 20] = 4
    return DataLoader(TensorDataset(x, y), SIZE)


class Weighted(Classifier):
    def __init__(self):
        super().__init__()
        self.mean = MeanMetric()

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.mean.update(F.cross_entropy(self(x), y, reduction="none").detach(), torch.ones(1))
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


class Every(Callback):
    update_calls = Calls(after=(10,))

    def on_train_batch_end(self, *_):
        """Makes chunks short."""


def short():
    return [Every()]


# Changes while training


class Late(Classifier):
    pass


class Patching(Callback):
    """Gives the module's class a batch hook after an epoch."""

    def on_fit_start(self, trainer, pl_module):
        if "on_train_batch_end" in vars(Late):
            del Late.on_train_batch_end

    def on_train_epoch_end(self, trainer, pl_module):
        Late.on_train_batch_end = lambda module, *_: decay(module, _)


class ByUpdates(Timer):
    """Stops by the number of updates."""

    def time_elapsed(self, stage="train"):
        return float(self.trainer.global_step)

    def setup(self, trainer, pl_module, stage):
        self.trainer = trainer


# What copying stores in a class


class Plain:
    size = 1.0


class Configured(Classifier):
    def __init__(self):
        super().__init__()
        self.settings = Plain()

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * self.settings.size


class Constant(LRScheduler):
    def get_lr(self):
        return [group["lr"] for group in self.optimizer.param_groups]


class Structured(Classifier):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return {"loss": loss, "more": {"detached": loss.detach()}}


SETTINGS |= {
    "a hook that steps again": Setting(make=StepsAgain),
    "a hook that goes back again": Setting(make=GoesBackAgain),
    "a metric of examples without labels": Setting(make=Ranking, data=few_labels, callbacks=short),
    "a window that is zero at first": Setting(make=Rare, data=with_late_ones, callbacks=short),
    "a weight for all": Setting(make=Weighted),
    "a hook that a class is given": Setting(LIGHTNING, make=Late, callbacks=lambda: [Patching()]),
    "a timer of one's own": Setting(LIGHTNING, callbacks=lambda: [ByUpdates(datetime.timedelta(seconds=27))]),
    "an object of a class of one's own": Setting(make=Configured),
    "a schedule without attributes": Setting(make=partial(Scheduled, Constant, interval="step")),
    "tensors within what a step returns": Setting(EAGER, make=Structured),
    **{
        f"{hook}, wrapped": Setting(LIGHTNING, make=overriding(hook))
        for hook in ("on_train_batch_end", "optimizer_step", "lr_scheduler_step", "on_before_optimizer_step")
    },
    "a transfer hook, wrapped": Setting(EAGER, make=overriding("on_before_batch_transfer", halve)),
    "an epoch's hook, wrapped": Setting(make=overriding("on_train_epoch_end")),
    "a callback's hook, wrapped": Setting(LIGHTNING, callbacks=lambda: [Decaying()]),
    "a step that passes for torch's": Setting(make=partial(Classifier, partial(Clamped, lr=0.1))),
    "a rate that passes for torch's": Setting(EAGER, make=partial(Scheduled, by_calls, interval="step")),
    "a hook that passes for torch's": Setting(EAGER, make=Hooked),
    "state of no parameter": Setting(EAGER, make=partial(Kept, partial(Stateful, lr=0.1))),
    **{f"{name}, hiding": Setting(EAGER, make=hiding(name)) for name in ("named_parameters", "named_buffers")},
    "keys that are equal": Setting(make=ByKey, data=Keyed),
    "an assertion": Setting(EAGER, make=Asserting),
    "a tensor that a function encloses": Setting(EAGER, make=Holding),
}
