"""Lightning means Lightning: what a user brings to an ordinary LightningModule does here what it does there."""

import inspect
import logging
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.core.hooks import ModelHooks
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ngram_mlp import MLP, BatchNormMLP, NGramDataModule

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


class Ordinary(LightningModule):
    """The network of an MLP of ours, trained as Lightning's documentation shows it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        contexts, targets = batch
        return F.cross_entropy(self.network(contexts), targets)

    def validation_step(self, batch, batch_idx):
        contexts, targets = batch
        self.log("val/loss", F.cross_entropy(self.network(contexts), targets))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[100_000], gamma=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def hooks_of(kind: type) -> list[str]:
    """The names of all hooks, from the library itself."""
    methods = inspect.getmembers(kind, inspect.isfunction)
    return [name for name, _ in methods if name.startswith("on_") or name in ("setup", "teardown")]


CALLBACK_HOOKS = hooks_of(Callback)
MODULE_HOOKS = [*hooks_of(ModelHooks), "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step", "backward"]
MODULE_HOOKS += ["configure_gradient_clipping", "on_before_batch_transfer", "on_after_batch_transfer"]


def recording(kind: type, hooks: list[str]) -> type:
    """A subclass that notes (hook, global_step) at each call of a hook, and then does what the class does."""

    def method(hook):
        def note(self, *args, **kwargs):
            trainer = self.trainer if isinstance(self, LightningModule) else args[0]
            self.trace.append((hook, trainer.global_step))
            return getattr(kind, hook)(self, *args, **kwargs)

        return note

    return type(f"Recording{kind.__name__}", (kind,), {hook: method(hook) for hook in hooks} | {"trace": []})


def trace_of_callback(model, data, options):
    callback = recording(Callback, CALLBACK_HOOKS)()
    Trainer(**QUIET, **options, callbacks=[callback]).fit(model, data)
    return callback.trace


def loader(data: NGramDataModule, minibatches: int) -> DataLoader:
    """So many minibatches, by torch's own DataLoader."""
    ngrams = data.splits["train"]
    examples = TensorDataset(ngrams.contexts[: 32 * minibatches].long(), ngrams.targets[: 32 * minibatches].long())
    return DataLoader(examples, batch_size=32)


class OrdinaryData(NGramDataModule):
    """The same splits, with torch's DataLoader for training."""

    def train_dataloader(self):
        return loader(self, self.trainer.max_steps * self.trainer.accumulate_grad_batches)


OPTIONS = [
    {"max_steps": 50},
    {"max_steps": 50, "val_check_interval": 20, "check_val_every_n_epoch": None},
    {"max_steps": 12, "accumulate_grad_batches": 3, "gradient_clip_val": 0.5, "num_sanity_val_steps": 0},
]


@pytest.fixture(autouse=True)
def _without_lightnings_advice():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(num_workers|shuffled dataloaders|logging interval).*")
        yield


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "validating", "accumulating"])
def test_a_callback_is_called_as_in_an_ordinary_run(options, corpus_file):
    ours, ordinary = NGramDataModule(str(corpus_file)), OrdinaryData(str(corpus_file))
    expected = trace_of_callback(Ordinary(MLP(ours.characters, 3).network), ordinary, options)
    assert trace_of_callback(MLP(ours.characters, 3), ours, options) == ending_with_validation(expected, options)


def ending_with_validation(trace, options):
    """The trace of a run that is told to stop at its last update, as ours are, so that it validates there."""
    return trace
