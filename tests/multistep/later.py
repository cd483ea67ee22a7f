"""Settings whose metrics, schedules and callbacks do more than theirs, where no step runs that could show it."""

import operator
import tempfile
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning import Callback
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAUROC

from multistep import Calls
from tests.multistep.deceiving import Dropping, Summing
from tests.multistep.settings import EAGER, SETTINGS, Scheduled, Setting
from tests.multistep.training import CLASSES, SIZE, Classifier, examples

# Metrics


class Measured(Classifier):
    """Updates a metric that is made of the module."""

    def __init__(self, make):
        super().__init__()
        self.seen = []
        self.metric = make(self)

    def training_step(self, batch, batch_idx):
        self.metric.update(batch[0])
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self):
        self.log("total", self.metric.compute())
        self.log("seen", float(len(self.seen)))


class Appending(Summing):
    """Appends a line to a file."""

    def __init__(self, _module):
        super().__init__()
        self.path = Path(tempfile.mkdtemp()) / "lines"

    def update(self, values):
        super().update(values)
        with self.path.open("a") as file:
            file.write("1\n")

    def compute(self):
        return torch.tensor(float(len(self.path.read_text().splitlines())))


class Counting(Summing):
    """Counts in a plain attribute."""

    def __init__(self, _module=None):
        super().__init__()
        self.times = 0

    def update(self, values):
        super().update(values)
        self.times += 1


class Paced(Measured):
    """Its step reads what its metric counts."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * (1 + self.metric.times % 3)


class ByMetric(Measured):
    """Its schedule reads what its metric counts."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = LambdaLR(optimizer, lambda _: 1 / (1 + self.metric.times % 3))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Binned(Classifier):
    """Updates a metric that has a buffer."""

    def __init__(self):
        super().__init__()
        self.area = MulticlassAUROC(CLASSES, thresholds=20)

    def training_step(self, batch, batch_idx):
        self.area.update(self(batch[0]).softmax(1), batch[1])
        self.log("area", self.area, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


class Fading(Summing):
    """Fades the data that it has seen."""

    def __init__(self, module):
        super().__init__()
        self.data = module.data

    def update(self, values):
        super().update(values)
        self.data.mul_(0.99)


class Faded(Measured):
    def __init__(self):
        self.data = examples().tensors[0]
        super().__init__(Fading)

    def train_dataloader(self):
        data = examples()
        data.tensors = (self.data, data.tensors[1])
        return DataLoader(data, SIZE)


class FadingSet(Summing):
    """Fades a dataset."""

    def __init__(self, module):
        super().__init__()
        self.dataset = module.dataset

    def update(self, values):
        super().update(values)
        self.dataset.tensors[0].mul_(0.99)


class FadedSet(Measured):
    def __init__(self):
        self.dataset = examples()
        super().__init__(FadingSet)

    def train_dataloader(self):
        return DataLoader(self.dataset, SIZE)


# Schedules


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


class Forgetting(LRScheduler):
    """Damps the momentum that the optimizer keeps."""

    def get_lr(self):
        for state in self.optimizer.state.values():
            if "momentum_buffer" in state and self.last_epoch % self.every == 0:
                self.change(state)
        return [group["lr"] for group in self.optimizer.param_groups]

    def __init__(self, optimizer, every, change):
        self.every, self.change = every, change
        super().__init__(optimizer)


def damp(state):
    state["momentum_buffer"].mul_(0.5)


def drop(state):
    del state["momentum_buffer"]


class Boosted(torch.optim.SGD):
    boost = 1.0

    def step(self, closure=None):
        loss = closure()
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.sub_(self.boost * self.param_groups[0]["lr"] * parameter.grad)
        return loss


def boosting(optimizer, every=1):
    def factor(number):
        optimizer.boost = 1.0 + number // every % 2
        return 1.0

    return LambdaLR(optimizer, factor)


SCALE = {"now": 1.0}


class ScaledSet(Dataset):
    """Its items are scaled as a schedule says."""

    def __len__(self):
        return 20 * SIZE

    def __getitem__(self, index):
        x, y = examples()[index]
        return x * SCALE["now"], y


def scaling(optimizer):
    SCALE["now"] = 1.0

    def factor(number):
        SCALE["now"] = 1.0 + number % 2
        return 1.0

    return LambdaLR(optimizer, factor)


class Noting(Measured):
    """Its schedule appends to a list of the module."""

    def configure_optimizers(self):
        def factor(number):
            self.seen.append(number)
            return 1.0

        optimizer = super().configure_optimizers()
        return [optimizer], [{"scheduler": LambdaLR(optimizer, factor), "interval": "step"}]


# Callbacks

GRADIENT = operator.attrgetter("grad")


class Slowed(Callback):
    """Lowers the rate after large gradients, which it finds by a name that it does not write or puts together."""

    update_calls = Calls(after=(5,))

    def __init__(self, find):
        self.find = find

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step % 5:
            return
        gradients = [gradient for p in pl_module.parameters() if (gradient := self.find(p)) is not None]
        trainer.optimizers[0].param_groups[0]["lr"] = 0.1 / (1 + sum(float(g.norm()) for g in gradients))


def by_prefix(parameter, prefix="gr"):
    return getattr(parameter, prefix + "ad")


def by_one_of(parameter):
    return [getattr(parameter, name) for name in ("data", "grad")][1]


# Objects that notice being copied or looked at


class Visited(list):
    """Counts how often somebody goes through it."""

    times = 0

    def __iter__(self):
        self.times += 1
        return super().__iter__()


class Visiting(Classifier):
    def __init__(self):
        super().__init__()
        self.factors = Visited([1.0, 2.0])

    def on_train_epoch_end(self):
        self.log("visits", float(self.factors.times))


class Visitor(Visiting):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1.0 if self.factors else 2.0)


LEFT = []


class Leaving:
    def __init__(self):
        self.size = 1.0

    def __del__(self):
        LEFT.append(1)


class Left(Classifier):
    def __init__(self):
        super().__init__()
        LEFT.clear()
        self.other = Leaving()

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * self.other.size

    def on_train_epoch_end(self):
        self.log("left", float(len(LEFT)))

    def on_train_end(self):
        del self.other  # not at some time within another test


def scheduled(make, **options):
    return partial(Scheduled, make, interval="step", **options)


SETTINGS |= {
    "a metric that appends to a file": Setting(EAGER, make=partial(Measured, Appending)),
    "a metric that counts": Setting(make=partial(Measured, Counting)),
    "a metric with a buffer": Setting(make=Binned),
    "a metric whose count a step reads": Setting(EAGER, make=partial(Paced, Counting)),
    "a metric whose count a schedule reads": Setting(EAGER, make=partial(ByMetric, Counting)),
    "a metric that changes the data": Setting(EAGER, make=Faded, data=lambda: None),
    "a metric that changes a dataset": Setting(EAGER, make=FadedSet, data=lambda: None),
    "a schedule that damps the momentum": Setting(
        EAGER, make=scheduled(partial(Forgetting, every=1, change=damp), optimizer=momentum)
    ),
    "a schedule that damps the momentum at times": Setting(
        EAGER, make=scheduled(partial(Forgetting, every=13, change=damp), optimizer=momentum)
    ),
    "a schedule that drops the momentum": Setting(
        EAGER, make=scheduled(partial(Forgetting, every=1, change=drop), optimizer=momentum)
    ),
    "a schedule that drops the momentum at times": Setting(
        EAGER, make=scheduled(partial(Forgetting, every=13, change=drop), optimizer=momentum)
    ),
    "a schedule that sets an attribute of the optimizer": Setting(EAGER, make=scheduled(boosting, optimizer=Boosted)),
    "a schedule that sets an attribute of the optimizer at times": Setting(
        EAGER, make=scheduled(partial(boosting, every=11), optimizer=Boosted)
    ),
    "a schedule that sets what the data read": Setting(
        EAGER, make=scheduled(scaling), data=lambda: DataLoader(ScaledSet(), SIZE)
    ),
    "a schedule that appends to the module's list": Setting(EAGER, make=partial(Noting, Counting)),
    "a callback that finds gradients by a getter": Setting(callbacks=lambda: [Slowed(GRADIENT)]),
    "a callback that puts the name of gradients together": Setting(callbacks=lambda: [Slowed(by_prefix)]),
    "a callback that finds gradients among others": Setting(callbacks=lambda: [Slowed(by_one_of)]),
    "a container that counts its visits": Setting(EAGER, make=Visiting),
    "a container that counts its visits, asked for its length": Setting(EAGER, make=Visitor),
    "an object that leaves": Setting(EAGER, make=Left),
}


class DrawingLater(Summing):
    """Draws from torch's generator from its 25th update on."""

    def __init__(self, _module):
        super().__init__()
        self.times = 0

    def update(self, values):
        self.times += 1
        super().update(values * torch.rand(()) if self.times > 25 else values)


class Drawn(Measured, Dropping):
    """Draws by dropout, between the draws of its metric."""
