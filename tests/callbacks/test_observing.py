"""The callbacks that look inside the network: what they change (nothing), and what they leave behind."""

import json
import re
import warnings
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch import nn
from torch.optim.lr_scheduler import ConstantLR
from torch.utils.data import DataLoader, TensorDataset

from multistep import Calls, MultiStep
from multistep._fused import FusedEngine
from ngram_mlp import MLP, NGramDataModule
from ngram_mlp.callbacks import (
    ActivationStatistics,
    GradientStatistics,
    InitializationCheck,
    Inspect,
    Intervals,
    Losses,
    LossHistory,
    Outcome,
    Quantity,
    SampledNames,
    TrainingVerdicts,
    layer_statistics,
    loss_history,
)
from ngram_mlp.callbacks.recorder import Due
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.layers import BatchNorm
from runlab import UserError


class Noisy(LanguageModel):
    """A variant of a user's own, with dropout, two norms and Adam."""

    def __init__(self, vocabulary: str, block_size: int) -> None:
        optimizer, schedule = partial(torch.optim.Adam, lr=0.01), partial(ConstantLR, factor=1.0)
        super().__init__(vocabulary, block_size, optimizer, schedule)
        self.network = nn.Sequential(
            nn.Embedding(len(vocabulary), 6),
            nn.Flatten(),
            nn.Linear(6 * block_size, 30),
            BatchNorm(30),
            nn.Tanh(),
            nn.Dropout(0.2),
            nn.BatchNorm1d(30),
            nn.Linear(30, len(vocabulary)),
        )


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_observing_changes_no_bit(engine, run_train):
    args = ["--model", "tests.callbacks.test_observing.Noisy", "--engine", engine, "--trainer.max_steps", "150"]
    args += ["--trainer.val_check_interval", "50", "--trainer.log_every_n_steps", "40"]
    results = []
    for every_n_updates in ("off", "7/14/50"):
        folder, _ = run_train(*args, "--observe.every_n_updates", every_n_updates)
        checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
        scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in ("train/loss", "val/loss")}
        results.append(
            (checkpoint, (folder / "losses.npy").read_bytes(), scalars, (folder / "samples.txt").read_text())
        )
    (without, *expected), (observed, *found) = results
    assert found == expected
    for name, value in without["state_dict"].items():
        assert value.equal(observed["state_dict"][name]), name
    for one, other in zip(without["optimizer_states"], observed["optimizer_states"], strict=True):
        for key, state in one["state"].items():
            assert all(value.equal(other["state"][key][name]) for name, value in state.items())
    one, other = (checkpoint["NGramDataModule"] for checkpoint in (without, observed))
    assert one["default_generator"].equal(other["default_generator"])
    assert one["minibatches"]["generator"].equal(other["minibatches"]["generator"])


def test_what_a_run_leaves_behind(run_train):
    folder, out = run_train("--trainer.max_steps", "61", "--observe.every_n_updates", "10/20/30")
    events = EventAccumulator(str(folder), {"scalars": 0, "histograms": 0, "images": 0}).Reload()
    tags = events.Tags()
    steps = {
        "within_hidden1/saturated": 10,
        "within_hidden1/update_to_data/linear.weight": 10,
        "within_hidden1/batch_norm_drift_std/norm": 10,
    }
    for tag, every in steps.items():
        assert [event.step for event in events.Scalars(tag)] == list(range(0, 61, every)), tag
    for tag in ("within_hidden1/activation", "within_output/gradient/linear", "within_embedding/value/weight"):
        assert [event.step for event in events.Histograms(tag)] == [0, 20, 40, 60], tag
        assert events.Histograms(tag)[0].histogram_value.num > 0
    names = {"activations", "saturation", "gradients", "weight_gradients", "update_to_data", "embedding", "loss"}
    assert {path.stem for path in (folder / "figures").iterdir()} == names
    for name in names:
        with Image.open(folder / "figures" / f"{name}.png") as image:
            assert image.width >= 400
            assert len(image.convert("L").getcolors()) > 20  # something is drawn
    assert [event.step for event in events.Images("views/saturation")] == [0, 30, 60]
    assert 0 <= events.Scalars("words/novel")[0].value <= 1
    texts = {tag.removesuffix("/text_summary") for tag in tags["tensors"]}
    assert {"run/recipe", "run/samples", "verdicts/before the first update", "verdicts/after the training"} <= texts
    assert "custom_scalars__config__" in tags["tensors"]
    assert (folder / "projector_config.pbtxt").exists()
    labels = (folder / "projector" / "labels.tsv").read_text().splitlines()
    vectors = np.loadtxt(folder / "projector" / "vectors.tsv")
    assert labels[:3] == [".", "a", "b"]
    assert vectors.shape == (len(labels), 10)  # with fewer than 3 it would show nothing
    final = json.loads((folder / "metrics.json").read_text())
    for split in ("train", "val", "test"):
        ((step, value),) = [(e.step, e.value) for e in events.Scalars(f"when_trained/{split}_loss")]
        assert (step, value) == (61, pytest.approx(final[split]["loss"], rel=1e-6))
    for name, about in (("preflight.json", "first loss"), ("verdicts.json", "outcome")):
        record = json.loads((folder / name).read_text())
        assert record["verdict"] in ("ok", "warning", "bad")
        assert about in {finding["about"] for finding in record["findings"]}
        assert about in out


def test_the_layers_to_observe_are_chosen_by_name(run_train):
    args = ["--model.n_layers", "2", "--model.n_hidden", "20", "--trainer.max_steps", "5"]
    folder, _ = run_train(*args, "--observe.every_n_updates", "default", "--observe.layers", "hidden2")
    tags = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
    assert {tag.split("/")[0] for tag in tags if tag.startswith("within")} == {"within_hidden2"}


def test_a_page_begins_with_train_and_val_and_custom_scalars_are_the_same_for_every_network(run_train):
    deep = ("--model.n_layers", "10", "--model.n_hidden", "8", "--trainer.max_steps", "2")
    layouts, shown = [], set()
    for network in (deep, ("--model", "MLP", "--trainer.max_steps", "2")):
        folder, _ = run_train(*network, "--observe.every_n_updates", "default")
        events = EventAccumulator(str(folder)).Reload()
        tags = events.Tags()
        for page in (tags["scalars"], [*tags["scalars"], *tags["images"], *tags["histograms"]]):
            # Lightning's own, of an epoch and the learning rate, stand alone.
            groups = dict.fromkeys(tag.split("/")[0] for tag in sorted(page) if "/" in tag)
            assert [*groups][:2] == ["train", "val"]
        (event,) = events.Tensors("custom_scalars__config__")
        layouts += event.tensor_proto.string_val
        charts = [c for category in layout_pb2.Layout.FromString(layouts[-1]).category for c in category.chart]
        for chart in charts:
            patterns = [*map(re.compile, chart.multiline.tag)]
            matched = {tag for tag in tags["scalars"] if any(pattern.search(tag) for pattern in patterns)}
            assert matched, chart.title
            shown |= matched
    assert layouts[0] == layouts[1]
    quantities = ("saturated", "dead_units", "activation_std", "gradient_std/activation")
    hidden = {f"within_hidden{n}/{quantity}" for n in range(1, 11) for quantity in quantities}
    weights = {tag for tag in tags["scalars"] if "/update_to_data" in tag}
    assert hidden | weights <= shown
    assert {tag for tag in shown if "gradient" in tag} - hidden == {"within_embedding/gradient_std"}


class Stops(Callback):
    """Ends a run before its last update, in one way or another."""

    error: ClassVar[BaseException | None] = None
    update_calls = Calls(after=(5,))

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step >= 25:
            trainer.should_stop = True
            if self.error is not None:
                raise self.error


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()], ids=["early", "Ctrl-C"])
def test_a_run_that_is_cut_short_has_its_figures(error, run_train, monkeypatch, tmp_path):
    monkeypatch.setattr(Stops, "error", error)
    args = ["--trainer.max_steps", "100", "--observe.every_n_updates", "10/0/0"]
    args += ["--trainer.callbacks+=tests.callbacks.test_observing.Stops"]
    with pytest.raises(SystemExit) if error else nullcontext():
        run_train(*args)
    found = {path.stem for path in (tmp_path / "runs/default/version_0/figures").iterdir()}
    assert found == {
        "activations",
        "saturation",
        "gradients",
        "weight_gradients",
        "update_to_data",
        "embedding",
        "loss",
    }


def noted(name, draws, drawn):
    """The function `draws`, which puts its arguments down by name as well."""

    def function(*args):
        drawn.setdefault(name, args)  # the first call of a run
        return draws(*args)

    return function


@pytest.mark.slow
def test_figures_show_the_first_look_the_middle_and_the_last_also_of_a_resumed_run(run_train, monkeypatch):
    drawn = {}
    for home, name in (
        (layer_statistics, "distributions_figure"),
        (layer_statistics, "saturation_figure"),
        (loss_history, "loss_figure"),
    ):
        monkeypatch.setattr(home, name, noted(name, getattr(home, name), drawn))
    options = ("--observe.every_n_updates", "10/0/0", "--trainer.val_check_interval", "20")
    options += ("--model.lr_scheduler.milestones", "[40]")
    run_train("--trainer.max_steps", "101", *options)
    looks = [[*drawn["distributions_figure"][2]], [*drawn["saturation_figure"][0]]]
    assert looks == [["update 0", "update 60", "update 100"], ["update 0", "update 100"]]
    whole, (losses, validation, drops) = drawn["distributions_figure"], drawn["loss_figure"]
    assert len(losses) == 101
    assert [update for update, _ in validation] == [20, 40, 60, 80, 100, 101]
    assert drops == [40]
    drawn.clear()
    run_train("--trainer.max_steps", "71", *options, "--name", "cut")
    drawn.clear()
    run_train("--ckpt_path", "last", "--trainer.max_steps", "101", "--name", "cut")
    assert [*drawn["saturation_figure"][0]] == ["update 0", "update 100"]
    before, after = whole[2]["update 0"], drawn["distributions_figure"][2]["update 0"]
    assert all(np.array_equal(values["values"], after[name]["values"]) for name, values in before.items())
    assert drawn["loss_figure"][1][0] == validation[0]


def test_off_means_nothing_at_all(run_train):
    folder, out = run_train("--trainer.max_steps", "5", "--observe.every_n_updates", "off")
    assert not (folder / "figures").exists()
    assert not list(folder.glob("*verdicts*"))
    assert "first loss" not in out
    tags = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
    assert {tag.split("/")[0] for tag in tags} == {"epoch", "train", "val", "when_trained"}


def test_a_run_without_tensorboard_keeps_its_figures(run_train):
    folder, _ = run_train(
        "--trainer.max_steps", "5", "--trainer.logger", "false", "--observe.every_n_updates", "default"
    )
    assert (folder / "figures" / "saturation.png").exists()
    assert (folder / "verdicts.json").exists()


def test_a_model_without_non_linearity_or_norm_is_no_obstacle(run_train, tmp_path, monkeypatch):
    (tmp_path / "plain_linear.py").write_text(
        "from torch import nn\nimport torch\nfrom ngram_mlp.models import LanguageModel\n"
        "class Bigram(LanguageModel):\n"
        "    def __init__(self, **kwargs) -> None:\n"
        "        super().__init__(**kwargs)\n"
        "        linear = nn.Linear(27 * self.block_size, 27)\n"
        "        self.network = nn.Sequential(nn.Embedding(27, 27), nn.Flatten(), linear)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder, out = run_train(
        "--model", "plain_linear.Bigram", "--trainer.max_steps", "5", "--observe.every_n_updates", "each"
    )
    assert "first loss" in out
    assert (folder / "figures" / "weight_gradients.png").exists()


@pytest.mark.parametrize(
    ("text", "update", "due"),
    [
        ("off", 0, (False, False, False)),
        ("off", 99, (False, False, False)),
        ("10/20/0", 0, (True, True, False)),
        ("10/20/0", 10, (True, False, False)),
        ("10/20/0", 11, (False, False, False)),
        ("10/20/0", 99, (True, True, True)),
        ("often", 10_000, (True, True, True)),
        ("default", 5_000, (True, False, False)),
    ],
)
def test_when_something_is_due(text, update, due):
    assert Intervals.parse(text).due(update, last=99) == Due(*due)


@pytest.mark.parametrize("text", ["sometimes", "10", "10/20", "10/20/x", "-1/2/3", ""])
def test_intervals_that_cannot_be_read_is_refused(text):
    with pytest.raises(UserError, match=r"every_n_updates .*1000/10000/0"):
        Intervals.parse(text)


def test_an_error_in_training_leaves_no_hook(run_train, monkeypatch):
    models = []
    step = LanguageModel.training_step

    def fail(self, batch, batch_idx):
        models.append(self)
        if self.trainer.global_step >= 20:
            raise RuntimeError("stop")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(LanguageModel, "training_step", fail)
    with pytest.raises(RuntimeError, match="stop"):
        run_train("--trainer.max_steps", "40", "--observe.every_n_updates", "10/10/10")
    for module in models[0].network.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks


class SnapshotLoss(Quantity):
    """Records the loss of each snapshot."""

    def observe(self, snapshot, model, recorder):
        recorder.numbers({"snapshot_loss": snapshot.loss})


def test_the_loss_of_a_snapshot_is_the_one_of_losses_npy(run_train):
    own = ("--observe.quantities+=tests.callbacks.test_observing.SnapshotLoss", "--observe.quantities.every_n_updates")
    folder, _ = run_train("--trainer.max_steps", "5", *own, "each")
    found = [event.value for event in EventAccumulator(str(folder)).Reload().Scalars("snapshot_loss")]
    np.testing.assert_allclose(found, np.load(folder / "losses.npy"), rtol=1e-6)


class Counting(Callback):
    """Declares when it needs its batch hooks, and notes when they are called."""

    def __init__(self, calls):
        self.update_calls = calls
        self.starts, self.ends = [], []

    def on_train_batch_start(self, trainer, *_):
        self.starts.append(trainer.global_step)

    def on_train_batch_end(self, trainer, *_):
        self.ends.append(trainer.global_step)


def test_a_callback_is_called_at_the_updates_that_it_declares(corpus_file, tmp_path):
    after, around = Counting(Calls(after=(40,))), Counting(Calls(around=(70,)))
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=90, save_top_k=-1)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(
        max_steps=200, val_check_interval=1_000, check_val_every_n_epoch=None, log_every_n_steps=1_000,
        callbacks=[MultiStep(), after, around, saver], num_sanity_val_steps=0, **options,
    )  # fmt: skip
    data = NGramDataModule(str(corpus_file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, about the saver and manual optimization
        trainer.fit(MLP(data.vocabulary, 3), data)
    assert {40, 80, 120, 160, 200} <= {*after.ends}
    for update in (0, 70, 140, 199):
        assert update in around.starts
        assert update + 1 in around.ends
    assert {90, 180} <= {*after.ends}
    assert len(after.ends) < 25  # and not at every update


@pytest.mark.slow
def test_what_every_run_observes_has_no_engine_keep_gradients(run_train, monkeypatch):
    """That would cost an update by plain PyTorch for every chunk."""
    kept = []
    monkeypatch.setattr(FusedEngine, "gradients", lambda *_: kept.append(1))
    run_train("--engine", "fused", "--trainer.max_steps", "30", "--observe.every_n_updates", "10/10/10")
    assert not kept


def test_data_of_another_kind_are_judged_by_their_first_minibatch(corpus_file, tmp_path):
    data = NGramDataModule(str(corpus_file))
    examples = TensorDataset(*(x[:96].long() for x in (data.splits["train"].contexts, data.splits["train"].targets)))
    model = MLP(data.vocabulary, 3)
    options = {"max_steps": 3, "logger": False, "enable_checkpointing": False, "default_root_dir": tmp_path}
    check = InitializationCheck(Console(quiet=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(callbacks=[check], accelerator="cpu", enable_progress_bar=False, **options)
        trainer.fit(model, DataLoader(examples, 32))
    found = json.loads((tmp_path / "preflight.json").read_text())
    assert [finding["about"] for finding in found["findings"]] == ["first loss", "saturation", "dead units"]


def test_lines_of_the_corpus_are_not_novel_however_words_are_joined(monkeypatch, tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(f'Say  "Hello {n % 3}" , world !' for n in range(30)))
    data = NGramDataModule(str(tmp_path / "lines.txt"), tokens="words", min_count=2)
    known = [data.tokenizer.decode(data.tokenizer.encode(line).tolist()) for line in data.corpus.words]
    monkeypatch.setattr(SampledNames, "_sample", lambda *_: known)
    found = {}
    SampledNames().conclude(None, SimpleNamespace(trainer=SimpleNamespace(datamodule=data), numbers=found.update))
    assert found == {"words/novel": 0}


def test_figures_stand_in_the_runs_folder_whatever_the_logger(run_train, tmp_path):
    logger = ["--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", str(tmp_path / "logs")]
    folder, _ = run_train("--trainer.max_steps", "10", "--observe.every_n_updates", "default", *logger)
    assert (folder / "figures" / "activations.png").exists()
    assert (folder / "preflight.json").exists()
    assert (folder / "verdicts.json").exists()
    (config,) = tmp_path.glob("logs/**/projector_config.pbtxt")  # which TensorBoard looks for beside its events
    assert [*config.parent.glob("events.out.tfevents.*")]
    assert not (config.parent / "figures").exists()


def test_a_pattern_of_layers_matches_those_beside_a_direct_connection():
    quantity = Quantity(layers="hidden*")
    names = ("embedding", "sum.direct", "sum.hidden1.linear", "hidden2")
    assert [*quantity.selected(dict.fromkeys(names))] == ["sum.hidden1.linear", "hidden2"]


@pytest.mark.parametrize(
    ("schedule", "drops"),
    [
        (("CosineAnnealingLR", "--model.lr_scheduler.T_max", "400"), []),
        pytest.param(("ExponentialLR", "--model.lr_scheduler.gamma", "0.99"), [], marks=pytest.mark.slow),
        (("MultiStepLR", "--model.lr_scheduler.milestones", "[200]"), [200]),
    ],
)
def test_a_schedule_that_falls_gradually_has_no_drops(schedule, drops, run_train, monkeypatch):
    drawn = {}
    monkeypatch.setattr(loss_history, "loss_figure", noted("loss", loss_history.loss_figure, drawn))
    options = ("--trainer.max_steps", "400", "--trainer.val_check_interval", "40", "--observe.every_n_updates", "0/0/0")
    run_train(*options, "--model.lr_scheduler", *schedule, "--engine", "eager")
    assert drawn["loss"][2] == drops


def test_callbacks_forget_one_run_before_the_next(corpus_file):
    """The same objects observe a run with a rate that is much too high, and then one that is well."""
    quantities = [ActivationStatistics("10/0/20"), GradientStatistics("10/0/20"), TrainingVerdicts("10/0/20")]
    shared = [Losses(), Outcome(), LossHistory(), Inspect(quantities)]
    histories = []
    for callbacks, lr in ((shared, 3.0), (shared, 0.1)):
        seed_everything(1)
        data = NGramDataModule(str(corpus_file))
        model = MLP(data.vocabulary, data.block_size, n_hidden=20, optimizer=lambda p, lr=lr: torch.optim.SGD(p, lr=lr))
        trainer = Trainer(
            max_steps=60,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            callbacks=[MultiStep("eager"), *callbacks],
            default_root_dir=corpus_file.parent / f"{lr}",
        )
        trainer.fit(model, data)
        histories.append(quantities[1].state_dict()["ratios"])
    first, second = histories
    assert [update for update, _ in second["hidden1.linear.weight"]] == [0, 10, 20, 30, 40, 50, 59]
    assert second != first
    verdicts = json.loads((corpus_file.parent / "0.1" / "verdicts.json").read_text())["findings"]
    assert {one["about"]: one["level"] for one in verdicts}["update:data ratio"] == "ok"


def test_a_resumed_run_remembers_that_its_rate_falls_gradually():
    history = LossHistory()
    history.setup(SimpleNamespace(callbacks=[Losses()]), None, "fit")
    history._rate, history._is_steady = 0.1, False
    again = LossHistory()
    again.setup(SimpleNamespace(callbacks=[Losses()]), None, "fit")
    again.load_state_dict(history.state_dict())
    trainer = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[{"lr": 0.01}])], global_step=9)
    again.on_train_batch_end(trainer, None, None, None, 0)
    assert again.state_dict()["drops"] == []


def test_names_are_sampled_of_an_ngram_data_module_alone(capsys):
    SampledNames().conclude(None, SimpleNamespace(trainer=SimpleNamespace(datamodule=None)))
    assert capsys.readouterr().out == ""
