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
from tests.multistep.training import FEATURES, Classifier

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


# Values from before the update that changes them


def with_scale(module):
    module.scale = nn.Parameter(torch.tensor([2.0, 1.0]))
    module.register_buffer("moved", torch.tensor(1.0))
    module.mean = torchmetrics.MeanMetric()


@step(FUSED, with_scale)
def hands_out_what_it_changes(self, batch):
    self.log("scale", self.scale[0])
    self.log("a copy of it", self.scale.detach().clone()[0], on_epoch=True)
    self.log("moved", self.moved.clone())
    self.mean.update(self.scale)
    self.log("mean", self.mean)
    self.moved.mul_(0.8)
    return loss_of(self, batch) * self.scale.square().sum()


def with_lags(module):
    module.register_buffer("last", torch.zeros(FEATURES))
    module.register_buffer("last_but_one", torch.zeros(FEATURES))
    module.register_buffer("turned", torch.eye(3) + torch.arange(9.0).view(3, 3))


@step(FUSED, with_lags)
def remembers_two_minibatches(self, batch):
    loss = loss_of(self, (batch[0] + self.last_but_one, batch[1]))
    self.last_but_one.copy_(self.last)
    self.last.copy_(batch[0][0])
    self.turned.copy_(self.turned.t().clone())
    return loss * self.turned[0, 1]


@step(FUSED, with_lags)
def swaps_two_buffers(self, batch):
    loss = loss_of(self, (batch[0] + self.last, batch[1]))
    self.last, self.last_but_one = self.last_but_one, batch[0][0] + 0.5 * self.last
    return loss


@step(FUSED, with_scale, doubled=property(lambda self: 2 * self.scale))
def reads_a_property(self, batch):
    return loss_of(self, batch) * self.doubled.square().sum()


def with_a_rate_that_is_a_tensor():
    return Scheduled(lambda parameters: torch.optim.Adam(parameters, lr=torch.tensor(0.01)))


class Scheduled(Classifier):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


ODD["a rate that is a tensor"] = with_a_rate_that_is_a_tensor, FUSED

# In settings: what callbacks change within an epoch


class Masked(Classifier):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", None)
        self.register_buffer("one", torch.ones(FEATURES))
        self.register_buffer("two", torch.ones(FEATURES))

    def training_step(self, batch, batch_idx):
        x = batch[0] * (1 if self.mask is None else self.mask)
        self.one.mul_(0.9).add_(0.1 * x.mean(0))
        self.two.mul_(0.8).add_(0.2 * x.mean(0))
        return F.cross_entropy(self(x * (1 + self.one) + self.two), batch[1])


def mask_late(module):
    module.mask = torch.arange(FEATURES) % 2.0


def change_class(module):
    module.net[1].__class__ = nn.Sigmoid


def make_one(module):
    module.two = module.one


def overlap(module):
    module.net[2].bias.data = module.net[2].weight.data.view(-1)[:4]


class Within(Callback):
    """Does something to the module within an epoch."""

    update_calls = Calls(after=(7,))

    def __init__(self, action):
        self.action = action

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 7:
            self.action(pl_module)


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
