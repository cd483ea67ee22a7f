"""Lightning means Lightning: what a user brings to an ordinary LightningModule does here what it does there."""

import inspect
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric.utilities.exceptions import MisconfigurationException
from ngram_mlp.training.calls import BATCH_HOOKS, Calls
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.core.hooks import ModelHooks
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ngram_mlp import MLP, BatchNormMLP, NGramDataModule
from ngram_mlp.errors import UserError
from tests import lightning_table
from tests.lightning_table import CALLBACKS, OPTIONS, QUIET, SCHEDULES, at_peace, optimizer_of, sgd, trained


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


TRAINERS = [
    {"max_steps": 50},
    {"max_steps": 50, "val_check_interval": 25, "check_val_every_n_epoch": None},
    {"max_steps": 12, "accumulate_grad_batches": 3, "gradient_clip_val": 0.5, "num_sanity_val_steps": 0},
]


@pytest.fixture(autouse=True)
def _without_lightnings_advice():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(num_workers|logging interval|You have overridden).*")
        yield


@pytest.mark.parametrize("options", TRAINERS, ids=["plain", "validating", "accumulating"])
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


class Gradients(Callback):
    """Declares when it needs its batch hooks, and has one that is called within an update."""

    update_calls = Calls(after=(10,))

    def on_after_backward(self, trainer, pl_module):
        self.norms = [*getattr(self, "norms", []), pl_module.network.output.linear.weight.grad.norm()]


def test_a_hook_within_an_update_is_called_at_every_update_whatever_is_declared(corpus_file, caplog):
    caplog.set_level("INFO", "ngram_mlp")
    callback = Gradients()
    model = trained(str(corpus_file), {"max_steps": 20, "callbacks": [callback]})
    assert model.engine_name == "lightning"
    assert len(callback.norms) == 20
    assert "Gradients wants its on_after_backward called at every update; that takes 3 times as long" in caplog.text


@pytest.mark.parametrize("options", TRAINERS, ids=["plain", "validating", "accumulating"])
def test_a_variants_hooks_are_called_as_an_ordinary_modules(options, corpus_file):
    ours, ordinary = NGramDataModule(str(corpus_file)), OrdinaryData(str(corpus_file))
    variant = recording(MLP, MODULE_HOOKS)(ours.characters, 3)
    Trainer(**QUIET, **options).fit(variant, ours)
    module = recording(Ordinary, MODULE_HOOKS)(MLP(ours.characters, 3).network)
    Trainer(**QUIET, **options).fit(module, ordinary)
    assert ("on_before_optimizer_step", 3) in module.trace
    assert variant.trace == module.trace


@pytest.mark.parametrize("options", TRAINERS, ids=["plain", "validating", "accumulating"])
def test_a_callback_without_batch_hooks_cannot_tell_chunks_from_an_ordinary_run(options, corpus_file):
    ours, ordinary = NGramDataModule(str(corpus_file)), OrdinaryData(str(corpus_file))
    others = [hook for hook in CALLBACK_HOOKS if hook not in BATCH_HOOKS]
    model = MLP(ours.characters, 3, engine="eager")
    traces = []
    for module, data in ((model, ours), (Ordinary(MLP(ours.characters, 3).network), ordinary)):
        callback = recording(Callback, others)()
        Trainer(**QUIET, **options, callbacks=[callback]).fit(module, data)
        traces.append(callback.trace)
    assert model.engine_name == "eager"  # it was trained in chunks
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


@pytest.mark.parametrize("kind", lightning_table.KINDS)
def test_the_tables_of_the_document_are_true_and_complete(kind, corpus_file):
    assert lightning_table.rows_in_document(kind) == lightning_table.rows(kind, str(corpus_file))


class Notes(Logger):
    """Keeps what is logged."""

    name = version = "notes"

    def __init__(self):
        super().__init__()
        self.points = []

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.points += [(key, step) for key in metrics if key not in OURS]


OURS = {"train/loss", "train/lr", "step", "epoch", "val/loss", "val/perplexity", "val/accuracy", "samples_per_second"}


@pytest.mark.parametrize("name", sorted(set(CALLBACKS) - {"BatchSizeFinder"}))
def test_a_callback_of_lightnings_does_what_it_does_in_an_ordinary_run(name, corpus_file):
    """It logs under the same names at the same steps, leaves the same files, and ends at the same update."""
    make = CALLBACKS[name][0]
    seen = []
    for ours in (True, False):
        data = (NGramDataModule if ours else OrdinaryData)(str(corpus_file))
        model = MLP(data.characters, 3)
        notes = Notes()
        shown = {"enable_progress_bar": "Bar" in name, "enable_checkpointing": "Checkpoint" in name}
        with at_peace():
            callback = make()
            options = {**QUIET, **shown, "logger": notes, "log_every_n_steps": 4, "val_check_interval": 6}
            try:
                trainer = Trainer(**options, max_steps=12, callbacks=[callback])
                trainer.fit(model if ours else Ordinary(model.network), data)
            except (UserError, AttributeError, MisconfigurationException) as error:
                seen.append(str(error))
            else:
                files = sorted(path.name for path in Path().rglob("*") if path.is_file())
                points = sorted(point for point in notes.points if not isinstance(point[1], float))
                seen.append((points, files, trainer.global_step, sorted(callback.state_dict())))
    refused = isinstance(seen[0], str)
    assert refused or seen[0] == seen[1]
    assert refused == (name in {"BackboneFinetuning", *REFUSED})


REFUSED = {"GradientAccumulationScheduler", "LearningRateFinder", "StochasticWeightAveraging"}


def traces_of(options, corpus):
    """What is called beside the batch hooks, in a run of ours and in an ordinary one."""
    others = [hook for hook in CALLBACK_HOOKS if hook not in BATCH_HOOKS]
    traces = []
    for ours in (True, False):
        data = (NGramDataModule if ours else OrdinaryData)(corpus)
        model = MLP(data.characters, 3, n_hidden=20)
        callback = recording(Callback, others)()
        with at_peace():
            bare = options.get("barebones")
            given = ({} if bare else QUIET) | {"max_steps": 10} | options
            Trainer(**given | {"callbacks": [callback]}).fit(model if ours else Ordinary(model.network), data)
        traces.append(callback.trace)
    return traces


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_an_option_of_the_trainer_does_what_it_does_in_an_ordinary_run(option, corpus_file):
    options = {option: OPTIONS[option][0]}
    if option in {"max_epochs", "min_epochs", "limit_train_batches", "overfit_batches"}:
        with pytest.raises(UserError, match=option):
            traces_of(options, str(corpus_file))
    else:
        ours, ordinary = traces_of(options, str(corpus_file))
        assert ours == ordinary


def weights_and_losses(corpus, options, **arguments):
    model = trained(str(corpus), options, **arguments)
    return model.engine_name, [*model.state_dict().values(), model.losses.all]


OPTIMIZERS = sorted(lightning_table.names_of("optimizers") - {"LBFGS", "Muon", "SparseAdam"})
CASES = [{"optimizer": optimizer_of(name)} for name in OPTIMIZERS]
OF_THE_UPDATE = sorted(set(SCHEDULES) - {"ReduceLROnPlateau"})
CASES += [{"optimizer": sgd, "lr_scheduler": SCHEDULES[name]} for name in OF_THE_UPDATE]
WAYS = [
    {"gradient_clip_val": 0.1},
    {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    {"accumulate_grad_batches": 3},
    {"precision": "bf16-mixed"},
    {"precision": "64-true"},
]


@pytest.mark.parametrize("arguments", CASES, ids=[*OPTIMIZERS, *OF_THE_UPDATE])
def test_eager_has_the_bits_of_lightning_with_every_optimizer_and_schedule(arguments, corpus_file):
    (one, lightning), (other, eager) = (
        weights_and_losses(corpus_file, {"val_check_interval": 5}, **arguments, engine=engine)
        for engine in ("lightning", "eager")
    )
    assert (one, other) == ("lightning", "eager")
    assert all(a.equal(b) for a, b in zip(lightning, eager, strict=True))


@pytest.mark.parametrize("options", WAYS, ids=[" ".join(map(str, way.values())) for way in WAYS])
def test_eager_has_the_bits_of_lightning_with_clipping_accumulation_and_precisions(options, corpus_file):
    (_, lightning), (_, eager) = (
        weights_and_losses(corpus_file, options, engine=engine) for engine in ("lightning", "eager")
    )
    assert all(a.equal(b) for a, b in zip(lightning, eager, strict=True))
    (_, plain) = weights_and_losses(corpus_file, {}, engine="eager")
    assert not all(a.equal(b) for a, b in zip(plain, eager, strict=True))


def test_a_precision_that_rescales_gradients_trains_by_lightning(corpus_file):
    plugin = MixedPrecision("16-mixed", "cpu")
    assert weights_and_losses(corpus_file, {"plugins": [plugin]})[0] == "lightning"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_moving_averages_are_the_same_bits_by_eager_and_lightning_and_are_what_validates(accumulate, corpus_file):
    """An independent average, kept beside the training, is what the model holds at the end."""
    average = []

    class Beside(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step > self.steps:
                self.steps = trainer.global_step
                now = [value.detach().clone() for value in pl_module.network.state_dict().values()]
                average[:] = [0.9 * a + 0.1 * b for a, b in zip(average, now, strict=True)] if average else now

        def on_train_start(self, trainer, pl_module):
            self.steps = 0

    def moving():
        return EMAWeightAveraging(decay=0.9)

    options = {"accumulate_grad_batches": accumulate, "val_check_interval": 4}
    found = []
    for engine, beside in (("lightning", [Beside()]), ("eager", [])):
        model = trained(str(corpus_file), options | {"callbacks": [*beside, moving()]}, engine=engine)
        found.append((model.engine_name, [*model.network.state_dict().values()]))
    assert [engine for engine, _ in found] == ["lightning", "eager"]
    for expected, lightning, eager in zip(average, found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(lightning, expected)
        assert lightning.equal(eager)
