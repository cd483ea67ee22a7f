"""Odd modules whose steps share memory with what is trained, or that change metrics of their own; odd numbers."""

import enum
import functools

import torch
import torch.nn.functional as F
import torchmetrics
from pytorch_lightning import Callback
from torch import nn

from multistep import Calls
from tests.multistep.odd import EAGER, FUSED, ODD, loss_of
from tests.multistep.reached import step
from tests.multistep.training import Classifier

# Memory of the weights


def detached(module):
    module.live = module.net[0].weight.detach()


def of_the_state(module):
    module.live = dict(list(module.state_dict().items())[:1])


def by_numpy(module):
    module.live = module.net[0].weight.detach().numpy()[1:]


def row(module):
    module.live = [module.net[0].weight.data[1]]


def by_a_partial(module):
    module.live = functools.partial(F.linear, weight=module.net[0].weight.detach())


def by_a_closure(module):
    weight = module.net[0].weight
    module.live = lambda: weight.detach()


def by_a_default(module):
    module.live = lambda weight=module.net[0].weight: weight.detach()


class Holder:
    __slots__ = ("weight",)


def by_a_slot(module):
    module.live = Holder()
    module.live.weight = module.net[0].weight.detach()


def value_of(live):
    live = live.weight if isinstance(live, Holder) else live
    live = live.keywords["weight"] if isinstance(live, functools.partial) else live
    live = live() if callable(live) else live
    live = next(iter(live.values())) if isinstance(live, dict) else live[0] if isinstance(live, list) else live
    return torch.as_tensor(live).square().sum()


for prepare in (detached, of_the_state, by_numpy, row, by_a_partial, by_a_closure, by_a_default, by_a_slot):

    def reads_live_weights(self, batch):
        return loss_of(self, batch) * (1 + value_of(self.live))

    reads_live_weights.__name__ = f"reads_live_weights_{prepare.__name__}"
    step(EAGER, prepare)(reads_live_weights)


def in_one_memory(module):
    """Views of one tensor that do not overlap, as some libraries keep weights."""
    flat = torch.cat([p.detach().flatten() for p in module.parameters()])
    for parameter in module.parameters():
        size = parameter.numel()
        parameter.data, flat = flat[:size].view_as(parameter), flat[size:]


@step(FUSED, in_one_memory)
def has_weights_in_one_memory(self, batch):
    return loss_of(self, batch)


def overlapping(module):
    module.net.insert(1, nn.Linear(12, 12))
    wide = nn.Parameter(module.net[1].weight.data[3:])
    module.more = nn.Linear(12, 9, bias=False)
    module.more.weight = wide


@step(EAGER, overlapping)
def has_weights_that_overlap(self, batch):
    return loss_of(self, batch) + self.more(self.net[1](batch[0].repeat(1, 2))).square().mean()


class Shadowed(torch.optim.SGD):
    """Keeps averages of the weights in containers of its own."""

    def __init__(self, parameters, where):
        super().__init__(parameters, lr=0.1)
        copies = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        self.where = where
        if where == "a group":
            self.param_groups[0]["shadow"] = copies
        else:
            self.shadow = {"a list": copies, "an object": Holder()}[where]
            if where == "an object":
                self.shadow.weight = copies

    def copies(self):
        if self.where == "a group":
            return self.param_groups[0]["shadow"]
        return self.shadow if self.where == "a list" else self.shadow.weight

    def step(self, closure=None):
        loss = super().step(closure)
        parameters = [p for group in self.param_groups for p in group["params"]]
        with torch.no_grad():
            for copy, parameter in zip(self.copies(), parameters, strict=True):
                copy.lerp_(parameter, 0.5)
                parameter.lerp_(copy, 0.1)
        return loss


for where in ("a list", "a group", "an object"):
    ODD[f"ShadowsIn {where}"] = functools.partial(Classifier, functools.partial(Shadowed, where=where)), EAGER

# Metrics of one's own that are changed otherwise than by an update


class Record(torchmetrics.MeanMetric):
    def __init__(self):
        super().__init__()
        self.seen = []
        self.scale = 1.0

    def note(self, value):
        self.seen.append(value.detach())


def with_record(module):
    module.record = Record()


@step(EAGER, with_record)
def notes_in_a_metric(self, batch):
    loss = loss_of(self, batch)
    self.record.note(loss)
    return loss * (1 + len(self.record.seen) % 2)


@step(EAGER, with_record)
def counts_in_a_metric(self, batch):
    self.record.scale += 1
    return loss_of(self, batch) * (self.record.scale % 2)


@step(EAGER, with_record)
def sets_the_state_of_a_metric(self, batch):
    loss = loss_of(self, batch)
    self.record.mean_value = loss.detach()
    return loss


@step(FUSED, with_record)
def reads_what_a_metric_has(self, batch):
    loss = loss_of(self, batch)
    self.record.update(loss)
    return loss * self.record.scale


# In settings: what callbacks change within an epoch


class Mode(enum.Enum):
    PLAIN = {"scale": 1.0}  # noqa: RUF012


class Scaled(Classifier):
    def __init__(self):
        super().__init__()
        self.record, self.mode = Record(), Mode.PLAIN
        self.mode.value["scale"] = 1.0

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.record.update(loss)
        return loss * self.record.scale * self.mode.value["scale"]


class Rescaling(Callback):
    update_calls = Calls(after=(7,))

    def __init__(self, of_a_metric):
        self.of_a_metric = of_a_metric

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 7:
            if self.of_a_metric:
                pl_module.record.scale = 1.5
            else:
                pl_module.mode.value["scale"] = 1.5


class Numbers(Classifier):
    """Logs numbers that 32 bits do not hold."""

    def training_step(self, batch, batch_idx):
        self.log("tenth", 0.1)
        self.log("many", 16_777_217)
        self.log("count", torch.tensor(16_777_217) + 0 * batch[1].sum(), on_step=False, on_epoch=True)
        self.log("flag", True)
        return F.cross_entropy(self(batch[0]), batch[1])


class CastWithin(Classifier):
    """Computes in bfloat16 without the trainer's knowledge."""

    def training_step(self, batch, batch_idx):
        with torch.autocast("cpu", torch.bfloat16):
            logits = self(batch[0])
        return F.cross_entropy(logits.float(), batch[1])


DTYPE, FORMAT = torch.float32, torch.contiguous_format


class OfADtype(Classifier):
    def training_step(self, batch, batch_idx):
        x = batch[0].to(DTYPE).contiguous(memory_format=FORMAT)
        return F.cross_entropy(self(x), batch[1])


ODD |= {"CastWithin": (CastWithin, FUSED), "OfADtype": (OfADtype, FUSED), "Numbers": (Numbers, FUSED)}
