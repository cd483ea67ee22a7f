"""Settings of which something around the module changes what compiled updates have taken for granted."""

import tempfile
from functools import partial

import torch
from pytorch_lightning import Callback, callbacks
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, LRScheduler, ReduceLROnPlateau, SequentialLR
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchmetrics import CatMetric
from torchmetrics.classification import BinaryAccuracy
from torchmetrics.image import StructuralSimilarityIndexMeasure

from tests.multistep.enclosed import Asking, Marking, Phased
from tests.multistep.settings import EAGER, SETTINGS, AtEpoch, Scheduled, Setting, Validated
from tests.multistep.training import FEATURES, SIZE, Classifier, loader
from tests.multistep.user_state import Dual

# Schedules


class Decaying(LRScheduler):
    """Changes the weight decay as well."""

    def get_lr(self):
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.01 * self.last_epoch
        return [group["lr"] for group in self.optimizer.param_groups]


def in_a_sequence(optimizer):
    return SequentialLR(optimizer, [Decaying(optimizer), ExponentialLR(optimizer, 0.99)], [30])


class Patient(ReduceLROnPlateau):
    def step(self, metrics, epoch=None):
        super().step(metrics, epoch)
        if self.last_epoch == 10:
            self.optimizer.param_groups[0]["weight_decay"] = 0.2


def enclosing(optimizer):
    def factor(_number):
        optimizer.param_groups[0]["weight_decay"] += 0.02
        return 1.0

    optimizer.param_groups[0]["weight_decay"] = 0.0
    return LambdaLR(optimizer, factor)


def replace_schedule(trainer, _module):
    config = trainer.lr_scheduler_configs[0]
    config.scheduler = LambdaLR(
        trainer.optimizers[0], lambda number: float(trainer.callback_metrics.get("train/loss", 1.0))
    )


# Hooks


class Saving(Classifier):
    factor = 1.0

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * self.factor

    def on_save_checkpoint(self, checkpoint):
        self.factor = 2.0


def saving():
    checkpoints = callbacks.ModelCheckpoint(tempfile.mkdtemp(), every_n_train_steps=5, save_top_k=1)
    return [checkpoints, callbacks.LearningRateMonitor("step")]


class Thawed(Classifier):
    def __init__(self):
        super().__init__(partial(torch.optim.Adam, lr=0.01))
        self.net[0].requires_grad_(False)


def thaw(trainer, module):
    module.net[0].requires_grad_()
    trainer.optimizers[0].add_param_group({"params": [*module.net[0].parameters()]})


class Listing(Classifier):
    """Reads the entries of a metric's list."""

    def __init__(self):
        super().__init__()
        self.cat = CatMetric()

    def training_step(self, batch, batch_idx):
        self.cat.update(self(batch[0]).detach())
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self):
        self.log("spread", torch.stack([entry.mean() for entry in self.cat.value]).std())
        self.cat.reset()


class Averaging(Classifier):
    """Keeps an average by assigning it, and returns to what it was at first."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.first, self.history = self.mean, []

    def training_step(self, batch, batch_idx):
        self.mean = 0.9 * self.mean + 0.1 * batch[0].mean(0)
        return super().training_step((batch[0] - self.mean, batch[1]), batch_idx)

    def on_train_epoch_end(self):
        self.history.append(self.mean)
        self.log("drift", (self.history[-1] - self.history[0]).abs().sum())
        self.mean = self.first


class Accumulating(torch.optim.SGD):
    """Keeps its momentum by assigning it."""

    def step(self, closure=None):
        loss = closure()
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                state = self.state[parameter]
                state["m"] = 0.9 * state.get("m", torch.zeros_like(parameter)) + parameter.grad
                parameter.sub_(0.05 * state["m"])
        return loss


class Restoring(Callback):
    """Puts back the state of an epoch before."""

    def on_train_epoch_start(self, trainer, pl_module):
        state = trainer.optimizers[0].state
        if trainer.current_epoch == 1:
            self.kept = {parameter: state[parameter]["m"] for parameter in state}
        elif trainer.current_epoch == 2:
            for parameter, value in self.kept.items():
                state[parameter]["m"] = value


# Data

FACTOR = {"now": 1.0}


class Reloaded(Classifier):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * FACTOR["now"]

    def train_dataloader(self):
        FACTOR["now"] = 1.0
        return DataLoader(Raising(self.current_epoch) if self.current_epoch else loader().dataset, SIZE)


class Raising(TensorDataset):
    """Its items change what a step reads."""

    def __init__(self, epoch):
        super().__init__(*loader().dataset.tensors)

    def __getitem__(self, index):
        FACTOR["now"] = 1.0 + int(index >= 10 * SIZE)
        return super().__getitem__(index)

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def halved(items):
    x, y = default_collate(items)
    return [x / 2, y]


class Collating(Callback):
    def on_validation_end(self, trainer, pl_module):
        if trainer.train_dataloader is not None:
            trainer.train_dataloader.collate_fn = default_collate


class Kept:
    """Hands out the same tensors at every epoch."""

    def __init__(self):
        self.minibatches = [*loader(shuffle=False)]

    def __len__(self):
        return len(self.minibatches)

    def __iter__(self):
        return iter(self.minibatches)


class Missing(Classifier):
    """A metric of probabilities, which takes a minibatch with a missing one for logits."""

    def __init__(self):
        super().__init__()
        self.accuracy = BinaryAccuracy()

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.accuracy.update(torch.sigmoid(self(x)[:, 0] - 1), (y > 1).long())
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        return super().training_step((x.nan_to_num(), y), batch_idx)


def with_a_missing_value():
    x, y = loader().dataset.tensors
    x = x.clone()
    x[12 * SIZE, 2] = float("nan")
    return DataLoader(TensorDataset(x, y), SIZE)


class Similar(Classifier):
    """A metric that scales by the range of each minibatch, the same in the first ones."""

    def __init__(self):
        super().__init__()
        self.similarity = StructuralSimilarityIndexMeasure(gaussian_kernel=False, kernel_size=1)

    def training_step(self, batch, batch_idx):
        images = batch[0].reshape(-1, 1, 2, 3)
        self.similarity.update(images / 2, images)
        self.log("similarity", self.similarity, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


def of_a_range_that_shrinks():
    x, y = loader().dataset.tensors
    x = x.clamp(0, 1)
    x[::SIZE, :2] = torch.tensor([0.0, 1.0])
    x[12 * SIZE :] /= 5
    return DataLoader(TensorDataset(x, y), SIZE)


class Adversarial(Classifier):
    """Perturbs a minibatch by the gradient that the last epoch left in it."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        x.requires_grad_()
        shifted = x if x.grad is None else x + 0.1 * x.grad.sign()
        return super().training_step((shifted, y), batch_idx)


def the_same_minibatches():
    return DataLoader([*loader(shuffle=False)], 1, collate_fn=lambda items: items[0])


SETTINGS |= {
    "a multiplier in no optimizer": Setting(EAGER, make=Dual),
    "a missing value among probabilities": Setting(make=Missing, data=with_a_missing_value),
    "a metric that scales by a range": Setting(make=Similar, data=of_a_range_that_shrinks),
    "a collation that repeats minibatches": Setting(EAGER, make=Adversarial, data=the_same_minibatches),
    "a schedule of one's own within a sequence": Setting(
        EAGER, make=partial(Scheduled, in_a_sequence, interval="step")
    ),
    "a plateau of one's own": Setting(
        make=partial(Scheduled, Patient, interval="step", frequency=1, monitor="train/loss_step", strict=False)
    ),
    "a rate that changes an option": Setting(EAGER, make=partial(Scheduled, enclosing, interval="step")),
    "a schedule that is replaced": Setting(
        EAGER,
        make=partial(Scheduled, partial(ExponentialLR, gamma=0.99), interval="step"),
        callbacks=lambda: [AtEpoch(replace_schedule)],
    ),
    "a change when a checkpoint is saved": Setting(
        make=Saving, callbacks=saving, options={"enable_checkpointing": True, "log_every_n_steps": 6}
    ),
    "a phase that copies forget": Setting(EAGER, make=Phased),
    "parameters that are thawed": Setting(make=Thawed, callbacks=lambda: [AtEpoch(thaw)]),
    "a buffer that is assigned, and kept elsewhere": Setting(make=Averaging),
    "optimizer state that is assigned, and put back": Setting(
        make=partial(Classifier, Accumulating), callbacks=lambda: [Restoring()]
    ),
    "a list of a metric": Setting(make=Listing),
    "data that change what is read, from the second epoch on": Setting(
        make=Reloaded, data=lambda: None, options={"reload_dataloaders_every_n_epochs": 1}
    ),
    "a collation that is set back": Setting(
        make=Validated,
        data=partial(loader, collate_fn=halved),
        callbacks=lambda: [Collating()],
        options={"val_check_interval": 7, "num_sanity_val_steps": 0},
    ),
    "minibatches that are marked": Setting(EAGER, make=Marking, data=Kept),
    "minibatches that require a gradient": Setting(EAGER, make=Asking, data=Kept),
}
