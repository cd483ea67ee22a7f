"""Lightning means Lightning: what a user brings to an ordinary LightningModule does here what it does there."""

import copy
import inspect
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging, GradientAccumulationScheduler, StochasticWeightAveraging
from pytorch_lightning.core.hooks import ModelHooks
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from multistep import Calls, MultiStep
from ngram_mlp import MLP, BatchNormMLP, NGramDataModule
from ngram_mlp.callbacks import Losses, ValidationAtEnd
from runlab import UserError
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
    """The same splits, with torch's DataLoader for training: epochs of as many minibatches."""

    def train_dataloader(self):
        return loader(self, len(self.splits["train"]) // 32)


BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward")
BATCH_HOOKS += ("on_after_backward", "on_before_optimizer_step")
TRAINERS = [
    {"max_epochs": 2},
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
    expected = trace_of_callback(Ordinary(MLP(ours.vocabulary, 3).network), ordinary, options)
    assert trace_of_callback(MLP(ours.vocabulary, 3), ours, options) == expected


def fit(model, data, engine="auto", callbacks=(), **options):
    """Trains, and returns the engine that did."""
    multistep = MultiStep(engine)
    Trainer(**QUIET, **options, callbacks=[multistep, *callbacks]).fit(model, data)
    return multistep.engine_used


class Forgetful(BatchNormMLP):
    """A variant that overrides a module hook and calls no `super()`."""

    def on_train_batch_start(self, batch, batch_idx):
        self.seen = [*getattr(self, "seen", []), (batch[0].shape, self.trainer.global_step)]


def test_a_variant_that_overrides_a_hook_is_called_at_every_update(corpus_file):
    data = NGramDataModule(str(corpus_file))
    model = Forgetful(data.vocabulary, 3)
    assert fit(model, data, max_steps=20) == "lightning"
    assert model.seen == [((32, 3), update) for update in range(20)]


class Gradients(Callback):
    """Declares when it needs its batch hooks, and has one that is called within an update."""

    update_calls = Calls(after=(10,))

    def on_after_backward(self, trainer, pl_module):
        self.norms = [*getattr(self, "norms", []), pl_module.network.output.linear.weight.grad.norm()]


def test_a_hook_within_an_update_is_called_at_every_update_whatever_is_declared(corpus_file):
    callback = Gradients()
    _, engine = trained(str(corpus_file), {"max_steps": 20, "callbacks": [callback]})
    assert engine == "lightning"
    assert len(callback.norms) == 20


@pytest.mark.parametrize("options", TRAINERS, ids=["plain", "validating", "accumulating"])
def test_a_variants_hooks_are_called_as_an_ordinary_modules(options, corpus_file):
    ours, ordinary = NGramDataModule(str(corpus_file)), OrdinaryData(str(corpus_file))
    variant = recording(MLP, MODULE_HOOKS)(ours.vocabulary, 3)
    Trainer(**QUIET, **options).fit(variant, ours)
    module = recording(Ordinary, MODULE_HOOKS)(MLP(ours.vocabulary, 3).network)
    Trainer(**QUIET, **options).fit(module, ordinary)
    assert ("on_before_optimizer_step", 3) in module.trace
    assert variant.trace == module.trace


@pytest.mark.parametrize("options", TRAINERS, ids=["plain", "validating", "accumulating"])
def test_a_callback_without_batch_hooks_cannot_tell_chunks_from_an_ordinary_run(options, corpus_file):
    ours, ordinary = NGramDataModule(str(corpus_file)), OrdinaryData(str(corpus_file))
    others = [hook for hook in CALLBACK_HOOKS if hook not in BATCH_HOOKS]
    traces, network = [], MLP(ours.vocabulary, 3).network
    for module, data, engines in (
        (MLP(ours.vocabulary, 3), ours, [MultiStep("eager")]),
        (Ordinary(network), ordinary, []),
    ):
        callback = recording(Callback, others)()
        Trainer(**QUIET, **options, callbacks=[*engines, callback]).fit(module, data)
        traces.append(callback.trace)
    assert traces[0] == traces[1]
    assert len(traces[0]) >= 8


def test_a_callback_has_the_last_update_followed_by_a_validation_where_no_interval_divides_the_updates(corpus_file):
    data = NGramDataModule(str(corpus_file))
    for engine in ("eager", "lightning"):
        seen = []
        callback = recording(Callback, ["on_validation_end"])()
        callback.trace = seen
        options = {"max_steps": 50, "val_check_interval": 20, "num_sanity_val_steps": 0}
        fit(MLP(data.vocabulary, 3), data, engine, [ValidationAtEnd(), callback], **options)
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


OURS = {"train/loss", "step", "epoch", "val/loss", "val/perplexity", "val/accuracy", "samples_per_second"}


@pytest.mark.parametrize("name", sorted(set(CALLBACKS) - {"BatchSizeFinder"}))
def test_a_callback_of_lightnings_does_what_it_does_in_an_ordinary_run(name, corpus_file):
    """It logs under the same names at the same steps, leaves the same files, and ends at the same update."""
    make = CALLBACKS[name][0]
    seen = []
    for ours in (True, False):
        data = (NGramDataModule if ours else OrdinaryData)(str(corpus_file))
        model = MLP(data.vocabulary, 3)
        notes = Notes()
        shown = {"enable_progress_bar": "Bar" in name, "enable_checkpointing": "Checkpoint" in name}
        with at_peace():
            callback = make()
            options = {**QUIET, **shown, "logger": notes, "log_every_n_steps": 4, "val_check_interval": 6}
            try:
                engines = [MultiStep()] if ours else []
                trainer = Trainer(**options, max_steps=12, callbacks=[*engines, callback])
                trainer.fit(model if ours else Ordinary(model.network), data)
            except (UserError, AttributeError, MisconfigurationException) as error:
                seen.append(str(error).replace("Ordinary", "MLP"))
            else:
                files = sorted(path.name for path in Path().rglob("*") if path.is_file())
                points = sorted(point for point in notes.points if not isinstance(point[1], float))
                seen.append((points, files, trainer.global_step, sorted(callback.state_dict())))
    assert seen[0] == seen[1]
    assert isinstance(seen[0], str) == (name in REFUSED)


REFUSED = {"BackboneFinetuning", "LearningRateFinder", "StochasticWeightAveraging"}  # the last wants max_epochs


def traces_of(options, corpus):
    """What is called beside the batch hooks, in a run of ours and in an ordinary one."""
    others = [hook for hook in CALLBACK_HOOKS if hook not in BATCH_HOOKS]
    traces = []
    for ours in (True, False):
        data = (NGramDataModule if ours else OrdinaryData)(corpus)
        model = MLP(data.vocabulary, 3, n_hidden=20)
        callback = recording(Callback, others)()
        with at_peace():
            bare = options.get("barebones")
            given = ({} if bare else QUIET) | {"max_steps": 10} | options
            engines = [MultiStep()] if ours else []
            Trainer(**given | {"callbacks": [*engines, callback]}).fit(model if ours else Ordinary(model.network), data)
        traces.append(callback.trace)
    return traces


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_an_option_of_the_trainer_does_what_it_does_in_an_ordinary_run(option, corpus_file):
    ours, ordinary = traces_of({option: OPTIONS[option][0]}, str(corpus_file))
    assert ours == ordinary


@pytest.mark.parametrize("engine", ["eager", "lightning"])
@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 2},
        {"max_epochs": 3, "limit_train_batches": 10, "accumulate_grad_batches": 4},
        {"max_epochs": 3, "overfit_batches": 2},
        {"max_epochs": 2, "val_check_interval": 0.25},
        {"max_epochs": 4, "check_val_every_n_epoch": 2, "limit_train_batches": 0.1},
        {"max_epochs": 2, "callbacks": [GradientAccumulationScheduler({0: 1, 1: 3})]},
        {"max_epochs": 3, "callbacks": [StochasticWeightAveraging(0.05, swa_epoch_start=1)]},
    ],
    ids=["epochs", "limited", "overfit", "validating in parts", "every second", "scheduled", "averaged"],
)
@pytest.mark.parametrize("sampling", ["replacement", "epochs"])
def test_what_counts_epochs_has_the_bits_of_plain_lightning(options, sampling, engine, corpus_file):
    found = []
    for engines in ([MultiStep(engine)], []):
        torch.manual_seed(1)
        data = NGramDataModule(str(corpus_file), sampling=sampling)
        model = BatchNormMLP(data.vocabulary, 3, n_hidden=20)
        callbacks = [*engines, *copy.deepcopy(options.get("callbacks", []))]
        with at_peace():
            trainer = Trainer(**QUIET | options | {"callbacks": callbacks})
            trainer.fit(model, data)
        found.append((trainer.global_step, trainer.current_epoch, [*model.state_dict().values()]))
    assert found[0][:2] == found[1][:2]
    assert all(a.equal(b) for a, b in zip(found[0][2], found[1][2], strict=True))


def test_a_plateau_lowers_the_rate_at_the_end_of_an_epoch(corpus_file):
    data = NGramDataModule(str(corpus_file))
    schedule = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, threshold=10.0, factor=0.5)
    model = MLP(data.vocabulary, 3, lr_scheduler=schedule)
    fit(model, data, max_epochs=4)  # no loss falls by so much
    assert model.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**4)


class OwnStep(MLP):
    """A variant with its own loss, and a hook without `super()`."""

    def on_fit_start(self):
        pass

    def training_step(self, batch, batch_idx):
        contexts, targets = batch
        logits = self(contexts)
        self.log("train/accuracy", (logits.argmax(1) == targets).float().mean())
        return F.cross_entropy(logits, targets, label_smoothing=0.1)


def test_a_variant_with_its_own_step_and_hooks_trains_by_all_engines(corpus_file):
    found = {}
    for engine in ("lightning", "eager", "fused"):
        torch.manual_seed(1)
        data = NGramDataModule(str(corpus_file))
        model = OwnStep(data.vocabulary, 3, n_hidden=20)
        assert fit(model, data, engine, max_steps=60) == engine
        found[engine] = [*model.state_dict().values()]
    for reference, eager, fused in zip(*found.values(), strict=True):
        assert reference.equal(eager)
        torch.testing.assert_close(fused, reference, rtol=1e-4, atol=1e-5)


def weights_and_losses(corpus, options, **arguments):
    losses = Losses()
    given = options | {"callbacks": [*options.get("callbacks", []), losses]}
    model, engine = trained(str(corpus), given, **arguments)
    return engine, [*model.state_dict().values(), losses.all]


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
        model, used = trained(str(corpus_file), options | {"callbacks": [*beside, moving()]}, engine=engine)
        found.append((used, [*model.network.state_dict().values()]))
    assert [engine for engine, _ in found] == ["lightning", "eager"]
    for expected, lightning, eager in zip(average, found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(lightning, expected)
        assert lightning.equal(eager)
