"""Settings of a trainer, its callbacks, schedules and data, by name: what training a module with them takes."""

import copy
import dataclasses
import datetime
import logging
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, callbacks
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
    default_collate,
)

from multistep import Calls
from tests.multistep.shared import (
    Masked,
    Numbers,
    Rescaling,
    Scaled,
    Within,
    change_class,
    make_one,
    mask_late,
    overlap,
)
from tests.multistep.training import CLASSES, FEATURES, SIZE, Classifier, examples, loader

FUSED, EAGER, LIGHTNING = "fused", "eager", "lightning"
LOG = logging.getLogger(__name__)


class Rows(Logger):
    """Keeps what is logged: (step, name, value)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[Any, str, float]] = []

    name = version = "rows"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Of no interest here."""

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self.rows += [(step, name, float(value)) for name, value in metrics.items()]


@dataclass
class Setting:
    """What one training differs in; `engine` trains it where `fused` would be taken."""

    engine: str = FUSED
    make: Callable[[], LightningModule] = Classifier
    data: Callable[[], Any] = loader
    callbacks: Callable[[], list[Callback]] = list
    options: dict[str, Any] = field(default_factory=dict)


class Validated(Classifier):
    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]))

    def val_dataloader(self):
        return loader(3 * SIZE, shuffle=False)


class Scheduled(Validated):
    def __init__(self, schedule: Callable[..., Any], optimizer: Any = None, **options: Any) -> None:
        super().__init__(optimizer)
        self.schedule, self.options = schedule, options

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), **self.options}}


class TwoSchedules(Validated):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        by_step = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
        by_epoch = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        return [optimizer], [{"scheduler": by_step, "interval": "step"}, {"scheduler": by_epoch, "interval": "epoch"}]


class MomentumSchedule(torch.optim.lr_scheduler.LRScheduler):
    """A schedule of one's own that changes more than the learning rate."""

    def get_lr(self):
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.01 * self.last_epoch
        return [group["lr"] for group in self.optimizer.param_groups]


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def groups(parameters):
    parameters = list(parameters)
    return torch.optim.SGD([{"params": parameters[:2], "lr": 0.05}, {"params": parameters[2:]}], lr=0.1, momentum=0.5)


class ByLambda(Validated):
    """Its learning rate is what a function of the module says."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(self, step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def by_weights(module, _step):
    return 1 / (1 + float(module.net[0].weight.detach().norm()))


def by_the_trainer(module, _step):
    return 1 / (1 + module.trainer.global_step)


def by_chance(_module, _step):
    return float(torch.rand(()))


# Data


@dataclasses.dataclass
class Pair:
    inputs: torch.Tensor
    targets: torch.Tensor
    name: str = "pair"


Named = namedtuple("Named", "inputs targets")


class OfMapping(Classifier):
    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch["x"]["inner"]) * batch["scale"], batch["y"])
        self.log("loss", loss, on_epoch=True)
        return {"loss": loss}


class OfAttributes(Classifier):
    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch.inputs), batch.targets)
        self.log("loss", loss, batch_size=len(batch.targets))
        return loss


class OfSeveral(Classifier):
    def training_step(self, batch, batch_idx):
        return sum(F.cross_entropy(self(x), y) for x, y in batch.values())


class WithDropout(Classifier):
    def __init__(self):
        super().__init__()
        self.net.insert(2, nn.Dropout(0.3))


def collated(kind: Callable[[list[torch.Tensor]], Any]) -> DataLoader[Any]:
    def collate(items):
        return kind([torch.stack(column) for column in zip(*items, strict=True)])

    return loader(collate_fn=collate)


def as_mapping(columns):
    return {"x": {"inner": columns[0]}, "y": columns[1], "scale": 2.0}


class Items(Dataset):
    """A map-style dataset of tensors; with noise, it draws from torch's generator."""

    def __init__(self, noise=False, count=20 * SIZE + 5):
        self.x, self.y = examples(count).tensors
        self.noise = noise

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x = self.x[i]
        return (x + 0.1 * torch.randn(FEATURES) if self.noise else x), self.y[i]


class ItemsAtOnce(Items):
    def __getitems__(self, indices):
        return [self[i] for i in indices]


class Seldom(Items):
    def __getitem__(self, i):
        return self.x[i] + (0.1 * torch.randn(FEATURES) if i == 200 else 0.0), self.y[i]


class Drawn(Sampler):
    def __len__(self):
        return 20 * SIZE

    def __iter__(self):
        for _ in range(len(self)):
            yield int(torch.randint(len(self), ()))


class Curriculum(Items):
    """Becomes harder with the network that it has seen."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def __getitem__(self, i):
        return self.x[i] * (1 + self.module.net[0].bias[0].item()), self.y[i]


class WithCurriculum(Classifier):
    def train_dataloader(self):
        return DataLoader(Curriculum(self), SIZE)


class SharesItsMemory:
    """Minibatches whose two tensors lie in one memory."""

    def __len__(self):
        return 20

    def __iter__(self):
        x, y = examples().tensors
        for i in range(0, 20 * SIZE, SIZE):
            whole = torch.cat([x[i : i + SIZE], y[i : i + SIZE, None].float()], 1)
            yield whole[:, :-1], whole[:, -1]


class OfFloats(Classifier):
    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1].long())
        self.log("loss", loss)
        return loss


class Fewer(Drawn):
    def __iter__(self):
        return iter(range(7 * SIZE))


class Stream(IterableDataset):
    def __init__(self, count=20 * SIZE + 5):
        self.count = count

    def __iter__(self):
        yield from zip(*examples(self.count).tensors, strict=True)


class Drawing:
    """A loader that draws with replacement, many minibatches at once where it is asked to."""

    def __init__(self, length=20, sized=True):
        self.x, self.y = examples().tensors
        self.generator = torch.Generator().manual_seed(5)
        self.length = length
        self.draws = 0

    def __len__(self):
        return self.length

    def __iter__(self):
        for _ in range(self.length):
            x, y = self.draw_minibatches(1)
            self.draws -= 1
            yield x[0], y[0]

    def draw_minibatches(self, n):
        self.draws += 1
        rows = torch.randint(len(self.x), (n, SIZE), generator=self.generator)
        return self.x[rows], self.y[rows]


class DrawingByDefault(Drawing):
    def draw_minibatches(self, n):
        rows = torch.randint(len(self.x), (n, SIZE))
        return self.x[rows], self.y[rows]


class Refilling:
    """A loader that fills the same memory again, and yields nothing now and then."""

    def __init__(self, nothing_at=()):
        self.nothing_at = nothing_at
        self.x, self.y = torch.empty(SIZE, FEATURES), torch.empty(SIZE, dtype=torch.long)

    def __len__(self):
        return 20

    def __iter__(self):
        for i, batch in enumerate(DataLoader(examples(), SIZE)):
            for kept, new in zip((self.x, self.y), batch, strict=True):
                kept.copy_(new)
            yield None if i in self.nothing_at else (self.x, self.y)


class Remembering(Items):
    """Holds a buffer of the module, or its optimizer."""

    def __init__(self, reached):
        super().__init__()
        self.reached = reached

    def __getitem__(self, i):
        seen = self.reached.defaults["lr"] if isinstance(self.reached, torch.optim.Optimizer) else self.reached.mean()
        return self.x[i] * (1 + seen), self.y[i]


class WithMemory(Classifier):
    def __init__(self):
        super().__init__()
        self.register_buffer("memory", torch.zeros(FEATURES))

    def train_dataloader(self):
        return DataLoader(Remembering(self.memory), SIZE)

    def training_step(self, batch, batch_idx):
        self.memory += 0.1 * batch[0].mean(0)
        return super().training_step(batch, batch_idx)


class WithView(Classifier):
    """Its data hold a view of a parameter, which NumPy sees."""

    def train_dataloader(self):
        return DataLoader(Remembering(self.net[0].bias.detach().numpy()[1:]), SIZE)


class Records(Items):
    """Items that are dictionaries, of which some have a weight, too."""

    def __getitem__(self, i):
        return {"x": self.x[i], "y": self.y[i], **({"weight": 2.0 + i % 3} if i // SIZE % 4 == 1 else {})}


class Uneven(Items):
    """Leaves out what it cannot read."""

    def __getitems__(self, indices):
        return [self[i] for i in indices if i % 50]


class OfRecords(Classifier):
    def training_step(self, batch, batch_idx):
        losses = F.cross_entropy(self(batch["x"]), batch["y"], reduction="none")
        loss = (losses * batch.get("weight", 1)).float().mean()
        self.log("loss", loss)
        return loss


def give_the_module(trainer, module):
    trainer.train_dataloader.dataset.reached = module.net[0].bias.detach()


def change_steps(trainer, _module):
    step = trainer.strategy.optimizer_step

    def smaller(optimizer, *args, **kwargs):
        value = step(optimizer, *args, **kwargs)
        with torch.no_grad():
            torch._foreach_mul_([p for group in optimizer.param_groups for p in group["params"]], 0.99)
        return value

    trainer.strategy.optimizer_step = smaller


def halve_precision(trainer, _module):
    trainer.strategy._precision_plugin = MixedPrecision("bf16-mixed", "cpu")


def halve_precision_of_data(trainer, _module):
    data = trainer.train_dataloader.dataset
    data.tensors = (data.tensors[0].to(torch.float16), data.tensors[1])


def widen_data(trainer, _module):
    data = trainer.train_dataloader.dataset
    data.tensors = (*data.tensors, data.tensors[1])


class OfMany(Classifier):
    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0].float()), batch[1]) * len(batch)
        self.log("loss", loss)
        return loss


class OneList:
    """A batch sampler that fills the same list again."""

    def __len__(self):
        return 20

    def __iter__(self):
        indices = []
        for i in range(20):
            indices[:] = range(i * SIZE, i * SIZE + SIZE)
            yield indices


class BeginsAgain:
    """An iterator without a length, which begins again when it has ended."""

    def __init__(self):
        self.batches = list(DataLoader(examples(), SIZE))
        self.next = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.next == len(self.batches):
            self.next = 0
            raise StopIteration
        self.next += 1
        return self.batches[self.next - 1]


LEVEL = {"of data": 1.0, "of a schedule": 1.0}


class Harder(Items):
    """Data that become harder, and tell the step."""

    def __init__(self, every):
        super().__init__()
        self.every = every
        LEVEL["of data"] = 1.0

    def __getitem__(self, i):
        if i % self.every == 0:
            LEVEL["of data"] *= 0.99
        return super().__getitem__(i)


class OfLevels(Classifier):
    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1]) * LEVEL["of data"] * LEVEL["of a schedule"]
        self.log("loss", loss)
        return loss


def sets_a_level(_module, step):
    LEVEL["of a schedule"] = 1 / (1 + step)
    return 1.0


def sets_an_attribute(module, step):
    module.temperature = 1 / (1 + step)
    return 1.0


class WithTemperature(ByLambda):
    temperature = 1.0

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.temperature * self(batch[0]), batch[1])


class Countdown:
    """A rate that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, step):
        self.calls += 1
        return 1 / (1 + self.calls)


class ReadsItsOptimizer(Classifier):
    def configure_optimizers(self):
        self.trainer.fit_loop._data_source.instance.dataset.reached = (optimizer := super().configure_optimizers())
        return optimizer


@dataclass
class Derived:
    """Derives from its fields what is no field."""

    x: torch.Tensor
    y: torch.Tensor

    def __post_init__(self):
        self.mask = (self.x[:, :1] > 0).float()


class OfDerived(Classifier):
    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch.x * batch.mask), batch.y)
        self.log("loss", loss)
        return loss


class Context(Callback):
    """Enters a context of torch's in an epoch, and leaves it at the end."""

    def __init__(self, make):
        self.make = make

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.context = self.make()
            self.context.__enter__()

    def on_train_end(self, trainer, pl_module):
        self.context.__exit__(None, None, None)


class ChangesAtTheEnd(Callback):
    def on_train_end(self, trainer, pl_module):
        pl_module.net[1] = nn.ReLU()
        trainer.optimizers[0].state.clear()


class Conjugated:
    """Minibatches of complex numbers, conjugated without being computed."""

    def __len__(self):
        return 20

    def __iter__(self):
        x, y = examples().tensors
        z = torch.complex(x, x.roll(1)).conj()
        return iter([(z[i : i + SIZE], y[i : i + SIZE]) for i in range(0, 20 * SIZE, SIZE)])


class OfConjugates(Classifier):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0].real + batch[0].imag), batch[1])


def with_gradients():
    x, y = examples().tensors
    return DataLoader(TensorDataset(x.clone().requires_grad_(), y), SIZE)


class Minibatches:
    """An iterable of minibatches that is no DataLoader; it has no length."""

    def __iter__(self):
        return iter(list(DataLoader(examples(20 * SIZE + 5), SIZE)))


class TooLong(Minibatches):
    """Promises more minibatches than it has."""

    def __len__(self):
        return 30


class Alternating(Dataset):
    """Minibatches of two sizes, in turn."""

    def __len__(self):
        return 20

    def __getitem__(self, i):
        x, y = examples().tensors
        return x[: 8 + i % 2 * 8], y[: 8 + i % 2 * 8]


class Growing(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        x, y = examples().tensors
        return {"x": {"inner": x[i : i + SIZE]}, "y": y[i : i + SIZE], "scale": float(1 + i % 3)}


# Callbacks


class Called(Callback):
    """Wants to be called around some updates; keeps when it was, and what it was told."""

    def __init__(self, calls):
        self.update_calls = calls
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(("start", trainer.global_step, batch_idx, float(batch[0].sum())))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(
            ("end", trainer.global_step, batch_idx, float(outputs["losses"].sum()), sorted(outputs["logged"]))
        )


class Undeclared(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.net[0].weight.data.mul_(0.999)


class AtEpoch(Callback):
    """Does something to the module as the second epoch begins, or another one."""

    def __init__(self, action, epoch=1):
        self.action, self.epoch = action, epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            self.action(trainer, pl_module)


class OwnFormula(callbacks.EMAWeightAveraging):
    def __init__(self):
        super().__init__(decay=0.9)
        self._kwargs["avg_fn"] = lambda average, value, count: 0.5 * average + 0.5 * value


class EveryThird(callbacks.WeightAveraging):
    def should_update(self, step_idx=None, epoch_idx=None):
        return step_idx is not None and step_idx % 3 == 0


class Normed(Validated):
    def __init__(self):
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(12))


class Changeable(Classifier):
    factor = 1.0

    def __init__(self):
        super().__init__()
        self.space = copy.copy(dataclasses.make_dataclass("Space", ["scale"])(1.0))
        self.mask = np.ones(FEATURES, dtype=np.float32)
        self.plain = torch.ones(FEATURES)
        self.table = {"scale": [1.0]}
        self.net.insert(2, nn.Dropout(0.0))

    def training_step(self, batch, batch_idx):
        x = (
            batch[0]
            * torch.from_numpy(self.mask)
            * self.plain
            * self.space.scale
            * self.table["scale"][0]
            * self.factor
        )
        loss = F.cross_entropy(self(x), batch[1])
        self.log("loss", loss, on_epoch=True)
        return loss


class Revalidated(Changeable):
    """Changes once, after a validation in the middle of an epoch."""

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]))

    def val_dataloader(self):
        return DataLoader(examples(SIZE), SIZE)

    def on_validation_epoch_end(self):
        if self.global_step == 10:
            self.table["scale"][0] = 2.0


class OfImages(Classifier):
    """Draws noise like its minibatches, in the order of their memory."""

    def training_step(self, batch, batch_idx):
        x = batch[0] + 0.3 * torch.randn_like(batch[0])
        return F.cross_entropy(self(x.flatten(1)), batch[1])


class Turned:
    """Collates images, every third minibatch of them in another order of memory."""

    def __init__(self):
        self.count = 0

    def __call__(self, items):
        self.count += 1
        x, y = default_collate(items)
        return x.transpose(1, 2).contiguous().transpose(1, 2) if self.count % 3 == 0 else x, y


def turned():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(20 * SIZE, 2, FEATURES // 2, generator=generator)
    return DataLoader(TensorDataset(images, examples().tensors[1]), SIZE, collate_fn=Turned())


class Known:
    network = None


class ToBeReached(Classifier):
    def __init__(self):
        super().__init__()
        Known.network = Mining.network = self.net


class Mining(Items):
    """Gives examples by what the network in training makes of them."""

    network = None

    def __getitem__(self, index):
        return self.weighed(*super().__getitem__(index), self.network)

    def weighed(self, x, y, network):
        with torch.no_grad():
            return x * network(x).norm(), y


class MiningByAClass(Mining):
    def __getitem__(self, index):
        return self.weighed(*Items.__getitem__(self, index), Known.network)


def noisy(parameters):
    """SGD whose loss is that of shifted weights, by hooks of torch's, which are called before the closure."""
    optimizer = momentum(parameters)

    def shift(by):
        def hook(optimizer, *_):
            with torch.no_grad():
                for group in optimizer.param_groups:
                    for parameter in group["params"]:
                        parameter.add_(by)

        return hook

    optimizer.register_step_pre_hook(shift(0.25))
    optimizer.register_step_post_hook(shift(-0.25))
    return optimizer


def perturbing(parameters):
    """The same by a step that stands for the optimizer's own."""
    optimizer = momentum(parameters)
    own = optimizer.step

    def step(closure=None):
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        with torch.no_grad():
            torch._foreach_add_(held, 0.25)
        loss = own(closure)
        with torch.no_grad():
            torch._foreach_sub_(held, 0.25)
        return loss

    optimizer.step = step
    return optimizer


class Unscaled(Classifier):
    """Has a loss of its own where tanh of a large value is not 1."""

    def __init__(self):
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=1e-7))
        self.net[1] = nn.GELU(approximate="tanh")


def saturating():
    x, y = (column.clone() for column in examples().tensors)
    x[5 * SIZE :] *= 1_000
    return DataLoader(TensorDataset(x, y), SIZE)


def freeze(_trainer, module):
    module.net[0].requires_grad_(False)


def renew_table(_trainer, module):
    module.table["scale"][0] = 2.0


def add_group(trainer, module):
    module.extra = nn.Linear(FEATURES, CLASSES)
    with torch.no_grad():
        for p in module.extra.parameters():
            p.fill_(0.1)
    original = module.net
    module.net = nn.Sequential(nn.Identity(), *original)
    trainer.optimizers[0].add_param_group({"params": list(module.extra.parameters()), "lr": 0.05})


def replace_parameter(trainer, module):
    new = nn.Parameter(torch.full_like(module.net[0].weight, 0.1))
    for group in trainer.optimizers[0].param_groups:
        group["params"] = [new if p is module.net[0].weight else p for p in group["params"]]
    module.net[0].weight = new


def change(name, value):
    def action(trainer, module):
        if name == "mask":
            module.mask[:2] = value
        elif name == "plain":
            module.plain[:2] = value
        elif name == "plain by data":
            module.plain.data.numpy()[:2] = value
        elif name == "table":
            module.table["scale"][0] = value
        elif name == "space":
            module.space.scale = value
        elif name == "dropout":
            module.net[2].p = value
        elif name == "rate":
            trainer.optimizers[0].param_groups[0]["lr"] = value
        elif name == "decay":
            trainer.optimizers[0].param_groups[0]["weight_decay"] = value
        elif name == "mode":
            module.net.eval()
        elif name == "step":
            module.training_step = lambda batch, batch_idx: 2 * F.cross_entropy(module(batch[0]), batch[1])
        elif name == "activation":
            module.net[1] = nn.ReLU()
        elif name == "hook":
            module.net[0].register_forward_hook(lambda m, args, output: 2 * output)
        elif name == "weights":
            module.net[0].weight.data.mul_(0.5)
        elif name == "clip":
            trainer.gradient_clip_val = value
        elif name == "optimizer":
            trainer.strategy.optimizers = [torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)]

    return lambda: [AtEpoch(action)]


class Verbose(Callback):
    """Has a logger listen to more for some updates within an epoch."""

    update_calls = Calls(after=(5,))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        LOG.setLevel(logging.DEBUG if 5 <= trainer.global_step < 15 else logging.INFO)


class Listening(Classifier):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return 2 * loss if LOG.isEnabledFor(logging.DEBUG) else loss


class EachEpoch(Callback):
    """Changes something again and again."""

    def on_train_epoch_start(self, trainer, pl_module):
        pl_module.space.scale = 1.0 + 0.1 * trainer.current_epoch


schedules = torch.optim.lr_scheduler
SETTINGS = {
    "a change of a metric's attribute": Setting(make=Scaled, callbacks=lambda: [Rescaling(True)]),
    "a change of what an enum holds": Setting(make=Scaled, callbacks=lambda: [Rescaling(False)]),
    "a buffer that is set late": Setting(make=Masked, callbacks=lambda: [Within(mask_late)]),
    "a change of class": Setting(make=Masked, callbacks=lambda: [Within(change_class)]),
    "two buffers that become one": Setting(make=Masked, callbacks=lambda: [Within(make_one)]),
    "parameters that begin to overlap": Setting(EAGER, make=Masked, callbacks=lambda: [Within(overlap)]),
    "numbers in 64 bits": Setting(make=Numbers, options={"precision": "64-true"}),
    "epochs": Setting(options={"max_epochs": 4}),
    "an odd last minibatch": Setting(data=partial(loader, 20 * SIZE + 5)),
    "drop_last": Setting(data=partial(loader, 20 * SIZE + 5, drop_last=True)),
    "in order": Setting(data=partial(loader, shuffle=False)),
    "max_steps": Setting(options={"max_epochs": -1, "max_steps": 47}),
    "max_steps before max_epochs": Setting(options={"max_steps": 33}),
    "limit_train_batches": Setting(options={"limit_train_batches": 7}),
    "limit_train_batches as a fraction": Setting(options={"limit_train_batches": 0.4}),
    "overfit_batches": Setting(options={"overfit_batches": 3}),
    "fast_dev_run": Setting(EAGER, options={"fast_dev_run": 1}),
    "accumulation": Setting(options={"accumulate_grad_batches": 4}),
    "accumulation that ends with the epoch": Setting(
        data=partial(loader, 20 * SIZE + 5), options={"accumulate_grad_batches": 4}
    ),
    "clipping by norm": Setting(options={"gradient_clip_val": 0.05}),
    "clipping by value": Setting(options={"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    "accumulation, clipping and momentum": Setting(
        make=partial(Classifier, momentum), options={"accumulate_grad_batches": 3, "gradient_clip_val": 0.05}
    ),
    "parameter groups": Setting(make=partial(Classifier, groups)),
    "bf16": Setting(options={"precision": "bf16-mixed"}),
    "64 bits": Setting(options={"precision": "64-true"}),
    "validation": Setting(make=Validated),
    "validation within an epoch": Setting(make=Validated, options={"val_check_interval": 7}),
    "validation at a fraction": Setting(make=Validated, options={"val_check_interval": 0.3}),
    "validation over epochs": Setting(
        make=Validated, options={"val_check_interval": 13, "check_val_every_n_epoch": None}
    ),
    "validation every second epoch": Setting(make=Validated, options={"check_val_every_n_epoch": 2}),
    "validation where accumulation is not done": Setting(
        make=Validated, options={"val_check_interval": 7, "accumulate_grad_batches": 4}
    ),
    "validation after a time": Setting(make=Validated, options={"val_check_interval": datetime.timedelta(hours=1)}),
    "reloading": Setting(options={"reload_dataloaders_every_n_epochs": 1}),
    "detect_anomaly": Setting(EAGER, options={"detect_anomaly": True}),
    "max_time": Setting(options={"max_time": {"hours": 1}}),
    "a rate that falls at every update": Setting(
        make=partial(Scheduled, partial(schedules.ExponentialLR, gamma=0.98), interval="step")
    ),
    "a rate that falls at every third update": Setting(
        make=partial(Scheduled, partial(schedules.ExponentialLR, gamma=0.9), interval="step", frequency=3)
    ),
    "a rate that falls with accumulation": Setting(
        make=partial(Scheduled, partial(schedules.ExponentialLR, gamma=0.9), interval="step"),
        options={"accumulate_grad_batches": 4},
    ),
    "a rate that falls at every epoch": Setting(make=partial(Scheduled, partial(schedules.ExponentialLR, gamma=0.5))),
    "a warm-up from zero": Setting(
        make=partial(Scheduled, partial(schedules.LambdaLR, lr_lambda=lambda n: min(1.0, n / 20)), interval="step")
    ),
    "a plateau by epoch": Setting(
        make=partial(Scheduled, partial(schedules.ReduceLROnPlateau, patience=0, threshold=0.5), monitor="val/loss")
    ),
    "a plateau by update": Setting(
        make=partial(
            Scheduled,
            partial(schedules.ReduceLROnPlateau, patience=0, threshold=0.5),
            monitor="train/loss",
            interval="step",
            frequency=5,
        )
    ),
    "one cycle": Setting(
        EAGER,
        make=partial(Scheduled, partial(schedules.OneCycleLR, max_lr=0.2, total_steps=60), momentum, interval="step"),
    ),
    "a schedule of one's own": Setting(EAGER, make=partial(Scheduled, MomentumSchedule, interval="step")),
    "two schedules": Setting(make=TwoSchedules),
    "a rate by a function of the number": Setting(make=partial(ByLambda, lambda _, step: 1 / (1 + step))),
    **{
        f"a rate {rate.__name__.replace('_', ' ')}": Setting(EAGER, make=partial(ByLambda, rate))
        for rate in (by_weights, by_the_trainer, by_chance)
    },
    "GradientAccumulationScheduler": Setting(callbacks=lambda: [callbacks.GradientAccumulationScheduler({0: 1, 1: 4})]),
    "StochasticWeightAveraging": Setting(
        make=Normed, callbacks=lambda: [callbacks.StochasticWeightAveraging(0.05, 1, 1)], options={"max_epochs": 4}
    ),
    "EMAWeightAveraging": Setting(make=Normed, callbacks=lambda: [callbacks.EMAWeightAveraging(decay=0.9)]),
    "EMAWeightAveraging at times": Setting(
        make=Normed,
        callbacks=lambda: [
            callbacks.EMAWeightAveraging(
                decay=0.9, use_buffers=False, update_every_n_steps=3, update_starting_at_step=10
            )
        ],
    ),
    "EMAWeightAveraging of accumulated updates": Setting(
        callbacks=lambda: [callbacks.EMAWeightAveraging(decay=0.9)], options={"accumulate_grad_batches": 4}
    ),
    "an average by a formula of one's own": Setting(EAGER, callbacks=lambda: [OwnFormula()]),
    "an average of every third update": Setting(LIGHTNING, callbacks=lambda: [EveryThird()]),
    "EarlyStopping": Setting(
        make=Validated,
        callbacks=lambda: [callbacks.EarlyStopping("val/loss", patience=0, min_delta=0.3)],
        options={"max_epochs": 6},
    ),
    "LearningRateMonitor": Setting(
        make=partial(Scheduled, partial(schedules.ExponentialLR, gamma=0.98), interval="step"),
        callbacks=lambda: [callbacks.LearningRateMonitor("step")],
    ),
    "an undeclared callback": Setting(LIGHTNING, callbacks=lambda: [Undeclared()]),
    "a mapping": Setting(make=OfMapping, data=partial(collated, as_mapping)),
    "a dataclass": Setting(make=OfAttributes, data=partial(collated, lambda columns: Pair(*columns))),
    "a named tuple": Setting(make=OfAttributes, data=partial(collated, lambda columns: Named(*columns))),
    "a constant that changes": Setting(make=OfMapping, data=lambda: DataLoader(Growing(), None)),
    "a dataset of items": Setting(data=lambda: DataLoader(Items(), SIZE, shuffle=True)),
    "a dataset of items at once": Setting(data=lambda: DataLoader(ItemsAtOnce(), SIZE, shuffle=True)),
    "a dataset with noise": Setting(data=lambda: DataLoader(Items(noise=True), SIZE, shuffle=True)),
    "a dataset with noise and dropout": Setting(
        make=WithDropout, data=lambda: DataLoader(ItemsAtOnce(noise=True), SIZE, shuffle=True)
    ),
    "a dataset that seldom draws and dropout": Setting(make=WithDropout, data=lambda: DataLoader(Seldom(), SIZE)),
    "a sampler that draws and dropout": Setting(make=WithDropout, data=lambda: loader(shuffle=False, sampler=Drawn())),
    "dropout": Setting(make=WithDropout),
    "a stream": Setting(data=lambda: DataLoader(Stream(), SIZE)),
    "a stream cut short": Setting(data=lambda: DataLoader(Stream(), SIZE), options={"limit_train_batches": 7}),
    "an iterable without a length": Setting(data=Minibatches),
    "a generator of one's own": Setting(data=lambda: loader(generator=torch.Generator().manual_seed(4))),
    "a sampler with replacement": Setting(
        data=lambda: DataLoader(examples(), SIZE, sampler=RandomSampler(examples(), True, 300))
    ),
    "a batch sampler": Setting(
        data=lambda: DataLoader(examples(), batch_sampler=BatchSampler(RandomSampler(examples()), SIZE, False))
    ),
    "data that read the module": Setting(EAGER, make=WithCurriculum, data=lambda: None),
    "a minibatch in one memory": Setting(EAGER, make=OfFloats, data=SharesItsMemory),
    "a length that is not true": Setting(data=TooLong),
    "a sampler that has fewer than it says": Setting(data=lambda: loader(shuffle=False, sampler=Fewer())),
    "a batch sampler that draws and dropout": Setting(
        make=WithDropout, data=lambda: DataLoader(examples(), batch_sampler=BatchSampler(Drawn(), SIZE, False))
    ),
    "a dataset and a sampler that draw in turn": Setting(
        data=lambda: DataLoader(Subset(Items(noise=True), range(20 * SIZE)), SIZE, sampler=Drawn())
    ),
    "a loader that draws from the default generator and dropout": Setting(make=WithDropout, data=DrawingByDefault),
    "minibatches that are conjugated": Setting(EAGER, make=OfConjugates, data=Conjugated),
    "data that require gradients": Setting(EAGER, data=with_gradients),
    "accumulation that ends with an odd minibatch": Setting(
        data=partial(loader, 20 * SIZE + 5), options={"accumulate_grad_batches": 3}
    ),
    "sizes in turn": Setting(data=lambda: DataLoader(Alternating(), None)),
    "a worker": Setting(data=partial(loader, num_workers=1)),
    "several loaders": Setting(make=OfSeveral, data=lambda: {"one": loader(), "two": loader(10 * SIZE)}),
    "a loader that draws": Setting(data=Drawing),
    "memory that is filled again": Setting(data=Refilling),
    "minibatches that are None": Setting(data=partial(Refilling, nothing_at=(3, 9, 10))),
    "data that hold a buffer of the module": Setting(EAGER, make=WithMemory, data=lambda: None),
    "data that hold the optimizer": Setting(
        EAGER, make=ReadsItsOptimizer, data=lambda: DataLoader(Remembering(torch.zeros(1)), SIZE)
    ),
    "data that view a parameter": Setting(EAGER, make=WithView, data=lambda: None),
    "data that are given the module": Setting(
        EAGER, data=lambda: DataLoader(Remembering(torch.zeros(1)), SIZE), callbacks=lambda: [AtEpoch(give_the_module)]
    ),
    "data of another precision": Setting(make=OfMany, callbacks=lambda: [AtEpoch(halve_precision_of_data)]),
    "data with another column": Setting(make=OfMany, callbacks=lambda: [AtEpoch(widen_data)]),
    "a batch sampler that fills one list": Setting(data=lambda: DataLoader(examples(), batch_sampler=OneList())),
    "an iterator that begins again": Setting(data=BeginsAgain),
    "data that change what the step reads": Setting(EAGER, make=OfLevels, data=lambda: DataLoader(Harder(SIZE), SIZE)),
    "data that seldom change what the step reads": Setting(
        make=OfLevels, data=lambda: DataLoader(Harder(10 * SIZE), SIZE), options={"max_epochs": 1}
    ),
    "a schedule that changes what the step reads": Setting(EAGER, make=partial(WithTemperature, sets_an_attribute)),
    "a schedule that changes a global value": Setting(EAGER, make=partial(ByLambda, sets_a_level)),
    "a schedule that counts": Setting(
        EAGER, make=partial(Scheduled, lambda o: schedules.LambdaLR(o, Countdown()), interval="step")
    ),
    "items with other keys": Setting(make=OfRecords, data=lambda: DataLoader(Records(), SIZE)),
    "items with other keys at once": Setting(
        make=OfRecords, data=lambda: DataLoader(type("", (Records, ItemsAtOnce), {})(), SIZE)
    ),
    "fewer items than asked": Setting(data=lambda: DataLoader(Uneven(), SIZE)),
    "a strategy that is changed": Setting(LIGHTNING, callbacks=lambda: [AtEpoch(change_steps)]),
    "a precision that is changed": Setting(callbacks=lambda: [AtEpoch(halve_precision)]),
    "a dataclass that derives more": Setting(make=OfDerived, data=partial(collated, lambda columns: Derived(*columns))),
    "a precision of one epoch on": Setting(
        EAGER, callbacks=lambda: [Context(lambda: torch.autocast("cpu", torch.bfloat16))]
    ),
    "a mode of one epoch on": Setting(EAGER, callbacks=lambda: [Context(torch.overrides.BaseTorchFunctionMode)]),
    "a change at the end": Setting(make=partial(Classifier, momentum), callbacks=lambda: [ChangesAtTheEnd()]),
    "a level of a logger": Setting(make=Listening, callbacks=lambda: [Verbose()], options={"max_epochs": 1}),
    "freezing": Setting(make=Changeable, callbacks=lambda: [AtEpoch(freeze)]),
    "a further parameter group": Setting(make=Changeable, callbacks=lambda: [AtEpoch(add_group)]),
    "a parameter that is replaced": Setting(make=Changeable, callbacks=lambda: [AtEpoch(replace_parameter)]),
    "a change at every epoch": Setting(
        EAGER, make=Changeable, callbacks=lambda: [EachEpoch()], options={"max_epochs": 8}
    ),
    **{
        f"{name} between epochs of one minibatch": Setting(
            make=Changeable,
            data=partial(loader, SIZE),
            callbacks=lambda action=action: [AtEpoch(action, 6)],
            options={"max_epochs": 12},
        )
        for name, action in {"freezing": freeze, "a further group": add_group, "a renewed table": renew_table}.items()
    },
    "a change between validations of one minibatch": Setting(
        make=Revalidated, options={"val_check_interval": 1, "max_epochs": 1}
    ),
    **{
        f"data that reach the module by {how}": Setting(
            EAGER, make=ToBeReached, data=lambda cls=cls: DataLoader(cls(), SIZE)
        )
        for how, cls in {"a value of their class": Mining, "a class": MiningByAClass}.items()
    },
    "hooks of the optimizer's step": Setting(EAGER, make=partial(Classifier, noisy)),
    "a step that perturbs before its closure": Setting(EAGER, make=partial(Classifier, perturbing)),
    "minibatches in another order of memory": Setting(make=OfImages, data=turned),
    "values that saturate later": Setting(make=Unscaled, data=saturating, options={"max_epochs": 2}),
    **{
        f"a change of {name}": Setting(
            EAGER if name in ("hook", "step", "optimizer") else FUSED, make=Changeable, callbacks=change(name, value)
        )
        for name, value in {
            "mask": 0.0,
            "plain": 0.0,
            "plain by data": 0.0,
            "table": 2.0,
            "space": 2.0,
            "dropout": 0.5,
            "rate": 0.01,
            "decay": 0.1,
            "mode": None,
            "step": None,
            "activation": None,
            "hook": None,
            "weights": None,
            "clip": 0.05,
            "optimizer": None,
        }.items()
    },
}
