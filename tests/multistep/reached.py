"""Odd modules whose steps reach something beside their tensors: by the longest ways that anybody has thought of."""

import collections
import contextvars
import dataclasses
import datetime
import functools
import itertools
import operator
import pathlib
import random
import threading
import types
import warnings

import torch
import torch.nn.functional as F
import torchmetrics
from torch import nn

from tests.multistep.odd import EAGER, FUSED, LIGHTNING, ODD, SEEN, Plain, loss_of
from tests.multistep.training import CLASSES, FEATURES, Classifier


def alternately(number):
    return 1 + number % 2


def step(engine, prepare=None, **attributes):
    """Makes an odd module of a function that computes its loss; `prepare` is called with a new module."""

    def add(loss):
        def prepared():
            module = type(loss.__name__, (Classifier,), {"training_step": training_step, **attributes})()
            if prepare is not None:
                prepare(module)
            return module

        def training_step(self, batch):
            return loss(self, batch)

        ODD[loss.__name__] = prepared, engine
        return loss

    return add


# The world outside


@step(EAGER)
def reads_the_clock(self, batch):
    return loss_of(self, batch) * (1 + 0 * datetime.datetime.now().hour)


@step(EAGER)
def reads_a_file(self, batch):
    return loss_of(self, batch) * (1 + 0 * len(pathlib.Path(__file__).read_text()))


@step(EAGER)
def starts_a_thread(self, batch):
    thread = threading.Thread(target=SEEN.append, args=(1,))
    thread.start()
    thread.join()
    return loss_of(self, batch)


@step(EAGER)
def warns(self, batch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.warn("again", stacklevel=1)
    return loss_of(self, batch)


@step(EAGER)
def seeds_a_generator(self, batch):
    torch.default_generator.manual_seed(0)
    return loss_of(self, batch)


@step(EAGER)
def asks_whether_it_is_compiled(self, batch):
    return loss_of(self, batch) * (1 if torch.compiler.is_compiling() else 2)


LEVEL = contextvars.ContextVar("LEVEL", default=1.0)


@step(EAGER)
def reads_its_context(self, batch):
    return loss_of(self, batch) * LEVEL.get()


# Counters in hidden places


@step(EAGER, lambda module: setattr(module, "note", SEEN.append))
def appends_by_a_bound_method(self, batch):
    self.note(1)
    return loss_of(self, batch) * alternately(len(SEEN))


@step(EAGER, lambda module: setattr(module, "draw", random.Random(0).random))
def draws_by_a_bound_method(self, batch):
    return loss_of(self, batch) * (1 + self.draw())


COUNTS: dict[str, object] = {}


def counting(make):
    """Prepares `COUNTS["it"]` for a module."""
    return lambda _: COUNTS.update(it=make())


@step(EAGER, counting(lambda: itertools.count().__next__))
def counts_by_an_iterator(self, batch):
    return loss_of(self, batch) * alternately(COUNTS["it"]())


@step(EAGER, counting(lambda: (alternately(n) for n in itertools.count())))
def counts_by_a_generator(self, batch):
    return loss_of(self, batch) * next(COUNTS["it"])


class Slots:
    __slots__ = ("calls",)

    def __init__(self):
        self.calls = 0

    def count(self):
        self.calls += 1
        return alternately(self.calls)


@step(EAGER, counting(Slots))
def counts_in_a_slot(self, batch):
    return loss_of(self, batch) * COUNTS["it"].count()


class Meter(dict):
    calls = 0


@step(EAGER, lambda module: setattr(module, "meter", Meter()))
def counts_on_a_dictionary(self, batch):
    self.meter.calls += 1
    return loss_of(self, batch) * alternately(self.meter.calls)


@dataclasses.dataclass
class Record:
    calls: int = 0

    def __getstate__(self):
        return {}


@step(EAGER, lambda module: setattr(module, "record", Record()))
def counts_in_what_is_not_pickled(self, batch):
    self.record.extra = getattr(self.record, "extra", 0) + 1
    return loss_of(self, batch) * alternately(self.record.extra)


class Counting:
    """A descriptor that counts in the instance."""

    def __get__(self, instance, owner):
        instance.__dict__["_reads"] = instance.__dict__.get("_reads", 0) + 1
        return alternately(instance.__dict__["_reads"])


@step(EAGER, weight=Counting())
def counts_in_a_descriptor(self, batch):
    return loss_of(self, batch) * self.weight


@step(EAGER, temperature=property(lambda self: 1.0, lambda self, value: SEEN.append(value)))
def counts_in_a_setter(self, batch):
    self.temperature = 1.0
    return loss_of(self, batch) * alternately(len(SEEN))


class Criterion(nn.Module):
    def forward(self, logits, targets):
        SEEN.append(1)
        return F.cross_entropy(logits, targets)


@step(EAGER, criterion=[Criterion()])
def counts_in_a_module_of_its_class(self, batch):
    return self.criterion[0](self(batch[0]), batch[1]) * alternately(len(SEEN))


@step(EAGER, counting(lambda: operator.methodcaller("append", 1)))
def counts_by_a_method_caller(self, batch):
    COUNTS["it"](SEEN)
    return loss_of(self, batch) * alternately(len(SEEN))


HELD: list[int] = []
HOLDERS = {"held": HELD}


@step(EAGER, lambda _: HELD.clear())
def fills_a_list_that_others_hold(self, batch):
    HOLDERS["held"].append(1)
    SEEN.extend(HELD[len(SEEN) :])  # as long as the list that it was
    return loss_of(self, batch) * alternately(len(HELD))


@step(EAGER, lambda module: setattr(module.net[0].weight, "calls", 0))
def counts_on_a_parameter(self, batch):
    self.net[0].weight.calls = getattr(self.net[0].weight, "calls", 0) + 1
    return loss_of(self, batch) * alternately(self.net[0].weight.calls)


@step(EAGER, lambda module: setattr(module, "bank", torch.utils.data.TensorDataset(torch.zeros(1))))
def fills_a_dataset(self, batch):
    self.bank.tensors[0].add_(1)
    return loss_of(self, batch) * (1 + self.bank.tensors[0][0] % 2)


@functools.lru_cache
def weights(count):
    return torch.rand(count) + 0.5


@step(FUSED, lambda _: weights.cache_clear())
def draws_once(self, batch):
    return F.cross_entropy(self(batch[0]), batch[1], weight=weights(CLASSES))


@dataclasses.dataclass
class Output:
    """Made within a step, which is no state."""

    logits: torch.Tensor
    notes: collections.deque = dataclasses.field(default_factory=collections.deque)

    def loss(self, targets):
        self.notes.append(1)
        return F.cross_entropy(self.logits, targets)


@step(FUSED)
def makes_objects(self, batch):
    return Output(self(batch[0])).loss(batch[1])


# What the training changes


@step(EAGER, lambda module: setattr(module, "clock", types.SimpleNamespace(of=module)))
def reads_the_trainer_by_an_object(self, batch):
    return loss_of(self, batch) * (1 + self.clock.of._trainer.global_step)


class WithSchedule(Classifier):
    def training_step(self, batch, batch_idx):
        loss = loss_of(self, batch)
        self.log("rate", self.schedule.get_last_lr()[0])
        return loss

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": self.schedule, "interval": "step"}]


class SlowingDown(Plain):
    def step(self, closure=None):
        loss = super().step(closure)
        self.param_groups[0]["lr"] *= 0.9999
        return loss


class LateHook(Classifier):
    def on_fit_start(self):
        self.on_train_batch_end = lambda outputs, batch, batch_idx: SEEN.append(batch_idx)


class HalvesGradients(Classifier):
    """By a hook on the node that accumulates them."""

    def on_fit_start(self):
        weight = self.net[0].weight
        self.node = [torch.autograd.graph.get_gradient_edge(weight).node]
        self.node[0].register_prehook(lambda gradients: (gradients[0] / 2,))


@step(EAGER)
def clips_weights_by_data(self, batch):
    self.net[0].weight.data = self.net[0].weight.data.clamp(-0.3, 0.3)
    return loss_of(self, batch)


@step(EAGER)
def changes_its_batch_by_data(self, batch):
    batch[0].data.mul_(0.5)
    return loss_of(self, batch)


# Memory


@step(EAGER, lambda module: module.register_buffer("columns", torch.arange(2.0 * FEATURES).view(FEATURES, 2)[:, 0]))
def reads_every_second_number(self, batch):
    return loss_of(self, (batch[0] * self.columns, batch[1]))


@step(EAGER, lambda module: module.register_buffer("one", torch.full((1,), 0.5).expand(FEATURES)))
def reads_one_number_again_and_again(self, batch):
    return loss_of(self, (batch[0] * self.one, batch[1]))


@step(EAGER, lambda module: module.register_buffer("negative", torch.complex(*torch.ones(2, FEATURES)).conj().imag))
def reads_what_is_negated_lazily(self, batch):
    return loss_of(self, (batch[0] * self.negative, batch[1]))


# Metrics


class Metrics(Classifier):
    def __init__(self, metric, *, update):
        super().__init__()
        self.metric, self.update = metric, update

    def training_step(self, batch, batch_idx):
        loss = loss_of(self, batch)
        factor = self.update(self.metric, loss, batch[0])
        self.log("metric", self.metric, on_step=False, on_epoch=True)
        return loss if factor is None else loss * factor


def reads_its_count(metric, loss, _):
    metric.update(loss)
    return 0.5 if metric.update_count > 10 else 1.0


def reads_its_state(metric, loss, _):
    metric.update(loss)
    return 1 / (1 + metric.weight)


def branches_on_it(metric, loss, _):
    return 2.0 if metric(loss) > 1.3 else 1.0


def imputes(metric, _, x):
    metric.update(values := torch.where(x > 2, torch.nan, x))
    return 1 + values.sum() * 0.01


class Drawing(torchmetrics.MeanMetric):
    def update(self, value):
        super().update(value + torch.rand(()))


def mean():
    return torchmetrics.MeanMetric()


for name, (make, engine) in {
    "WithSchedule": (WithSchedule, EAGER),
    "SlowingDown": (functools.partial(Classifier, functools.partial(SlowingDown, lr=0.05)), EAGER),
    "LateHook": (LateHook, LIGHTNING),
    "HalvesGradients": (HalvesGradients, EAGER),
    "MetricOfANumber": (lambda: Metrics(mean(), update=lambda metric, *_: metric.update(2.0)), FUSED),
    "ReadsTheCountOfAMetric": (lambda: Metrics(mean(), update=reads_its_count), EAGER),
    "ReadsTheStateOfAMetric": (lambda: Metrics(mean(), update=reads_its_state), EAGER),
    "BranchesOnAMetric": (lambda: Metrics(mean(), update=branches_on_it), EAGER),
    "MetricThatImputes": (lambda: Metrics(torchmetrics.MeanMetric(nan_strategy=0.0), update=imputes), EAGER),
    "MetricThatDraws": (lambda: Metrics(Drawing(), update=lambda metric, loss, _: metric.update(loss)), EAGER),
}.items():
    ODD[name] = make, engine
