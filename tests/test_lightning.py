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
from ngram_mlp.training.calls import BATCH_HOOKS

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
    {"max_steps": 50, "val_check_interval": 25, "check_val_every_n_epoch": None},
    {"max_steps": 12, "accumulate_grad_batches": 3, "gradient_clip_val": 0.5, "num_sanity_val_steps": 0},
]


@pytest.fixture(autouse=True)
def _without_lightnings_advice():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(num_workers|logging interval|You have overridden).*")
        yield


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "validating", "accumulating"])
def test_a_callback_is_called_as_in_an_ordinary_run(options, corpus_file):
    ours, ordinary = NGramDataModule(str(corpus_file)), OrdinaryData(str(corpus_file))
    expected = trace_of_callback(Ordinary(MLP(ours.characters, 3).network), ordinary, options)
    assert trace_of_callback(MLP(ours.characters, 3), ours, options) == expected


class Forgetful(BatchNormMLP):
    """A variant that overrides a module hook and calls no `super()`."""

    def on_train_batch_start(self, batch, batch_idx):
        self.seen = [*getattr(self, "seen", []), (batch[0].shape, self.trainer.global_step)]


def test_a_variant_that_overrides_a_hook_is_called_at_every_update(corpus_file):
    data = NGramDataModule(str(corpus_file))
    model = Forgetful(data.characters, 3)
    Trainer(**QUIET, max_steps=20).fit(model, data)
    assert model.engine_name == "lightning"
    assert model.seen == [((32, 3), update) for update in range(20)]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "validating", "accumulating"])
def test_a_variants_hooks_are_called_as_an_ordinary_modules(options, corpus_file):
    ours, ordinary = NGramDataModule(str(corpus_file)), OrdinaryData(str(corpus_file))
    variant = recording(MLP, MODULE_HOOKS)(ours.characters, 3)
    Trainer(**QUIET, **options).fit(variant, ours)
    module = recording(Ordinary, MODULE_HOOKS)(MLP(ours.characters, 3).network)
    Trainer(**QUIET, **options).fit(module, ordinary)
    assert ("on_before_optimizer_step", 3) in module.trace
    assert variant.trace == module.trace


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "validating", "accumulating"])
def test_a_callback_without_batch_hooks_cannot_tell_chunks_from_an_ordinary_run(options, corpus_file):
    ours, ordinary = NGramDataModule(str(corpus_file)), OrdinaryData(str(corpus_file))
    others = [hook for hook in CALLBACK_HOOKS if hook not in BATCH_HOOKS]
    model = MLP(ours.characters, 3)
    traces = []
    for module, data in ((model, ours), (Ordinary(MLP(ours.characters, 3).network), ordinary)):
        callback = recording(Callback, others)()
        Trainer(**QUIET, **options, callbacks=[callback]).fit(module, data)
        traces.append(callback.trace)
    assert model.engine_name == "eager"
    assert traces[0] == traces[1]
    assert len(traces[0]) > 12


def test_the_last_update_is_followed_by_a_validation_where_no_interval_divides_the_updates(corpus_file):
    data = NGramDataModule(str(corpus_file))
    for engine in ("eager", "lightning"):
        seen = []
        callback = recording(Callback, ["on_validation_end"])()
        callback.trace = seen
        trainer = Trainer(**QUIET, max_steps=50, val_check_interval=20, num_sanity_val_steps=0, callbacks=[callback])
        trainer.fit(MLP(data.characters, 3, engine=engine), data)
        assert seen == [("on_validation_end", 20), ("on_validation_end", 40), ("on_validation_end", 50)]
