"""A diagnosis never costs a run: what fails is reported in one line and switched off, and training goes on."""

import errno
import os
import subprocess
import sys
import time
from typing import ClassVar

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from ngram_mlp.callbacks import Inspect, Quantity, harmless
from ngram_mlp.cli import train
from ngram_mlp.diagnostics.snapshot import Snapshot
from ngram_mlp.models import MLP
from runlab import UserError
from tests.cli.folders import scalars, weights
from tests.conftest import PROJECT

STRICT = harmless.strict
OPTIONS = (
    *("--model", "MLP", "--model.n_hidden", "20", "--trainer.max_steps", "61", "--trainer.val_check_interval", "30"),
)
HOOKS = ("observe", "draw", "conclude", "state_dict")
QUANTITIES = (
    "--observe.quantities+=tests.callbacks.test_diagnosis.Fragile",
    *("--observe.quantities.every_n_updates", "20/0/0"),
    "--observe.quantities+=tests.callbacks.test_diagnosis.Witness",
    *("--observe.quantities.every_n_updates", "20/0/0"),
)


def raising(name):
    """A hook of `Fragile`."""

    def hook(self, *arguments):
        self.calls.append(name)
        update = next((one.update for one in arguments if isinstance(one, Snapshot)), self.first)
        if name == self.hook and update >= self.first:
            raise self.error
        return {} if name == "state_dict" else None

    return hook


class Fragile(Quantity):
    """Raises in the hook that a test names, from an update on."""

    hook: ClassVar[str] = ""
    error: ClassVar[BaseException] = ValueError("no such\nlayer")
    first: ClassVar[int] = 0
    calls: ClassVar[list[str]] = []

    def observe(self, snapshot, model, recorder):
        raising("observe")(self, snapshot)
        recorder.numbers({"fragile": snapshot.loss})

    locals().update({name: raising(name) for name in HOOKS if name != "observe"})


class Witness(Quantity):
    """Comes after it, and records."""

    def observe(self, snapshot, model, recorder):
        recorder.numbers({"witness": snapshot.loss})


FRAGILE_IN_ONE_PROCESS = """
from ngram_mlp.callbacks import Quantity

class Fragile(Quantity):
    def observe(self, snapshot, model, recorder):
        if recorder.is_first_process and snapshot.update:
            raise ValueError("only here")
"""


class OddModel(MLP):
    """Its forward pass fails where a snapshot is taken."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.network = Odd(self.network)


class Odd(nn.Module):
    """Stands no hooks."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, contexts):
        if any(module._forward_hooks for module in self.modules()):
            raise TypeError("hooks are not for me")
        return self.network(contexts)


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    """As it is outside of tests; nothing of `Fragile` is left over from another one."""
    monkeypatch.setattr(harmless, "strict", False)
    for name in ("hook", "error", "first"):
        monkeypatch.setattr(Fragile, name, getattr(Fragile, name))
    Fragile.calls.clear()


def failures(out):
    return [line for line in out.splitlines() if "switched off" in line]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, sample_words):
    """The weights of a run that nothing observes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "words.txt").write_text("\n".join(sample_words[::63][:300]))
    options = [
        "--data.corpus",
        str(folder / "words.txt"),
        "--runs_dir",
        str(folder),
        "--name",
        "default",
        "--observe.every_n_updates",
        "off",
    ]
    train.main(PROJECT / "configs" / "default.yaml", [*OPTIONS, *options])
    return weights(folder / "default" / "version_0" / "checkpoints" / "last.ckpt")


def assert_trained_as(expected, folder):
    found = weights(folder / "checkpoints" / "last.ckpt")
    assert all(value.equal(found[name]) for name, value in expected.items())
    assert len(np.load(folder / "losses.npy")) == 61


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_raises_costs_one_line_and_its_quantity(hook, run_train, undisturbed):
    Fragile.hook, Fragile.first = hook, 20 if hook == "observe" else 0
    folder, out = run_train(*OPTIONS, *QUANTITIES)
    (line,) = failures(out)
    assert line.startswith("Fragile failed at update ")
    assert "ValueError: no such layer" in line
    if Fragile.first:
        assert "at update 20 and" in line
    assert_trained_as(undisturbed, folder)
    assert [step for step, _ in scalars(folder)["witness"]] == [0, 20, 40, 60]
    after = Fragile.calls[Fragile.calls.index(hook) + 1 :] if not Fragile.first else []
    assert not after
    if hook == "observe":
        assert "fragile" in scalars(folder)
        assert [step for step, _ in scalars(folder)["fragile"]] == [0]


def test_a_resumed_run_asks_again(run_train):
    Fragile.hook = "observe"
    run_train(*OPTIONS, *QUANTITIES)
    _, out = run_train("--ckpt_path", "last", "--trainer.max_steps", "81")
    assert len(failures(out)) == 1


def test_a_snapshot_that_fails_costs_one_line_and_all_quantities(run_train):
    model = ("--model", "tests.callbacks.test_diagnosis.OddModel")
    plain, _ = run_train(*OPTIONS, *model)
    folder, out = run_train(*OPTIONS, *model, *QUANTITIES, "--observe.every_n_updates", "10/20/30")
    check, line = failures(out)  # the first before the training, which takes a snapshot of its own
    assert check.startswith("InitializationCheck failed at update 0 and")
    assert "snapshot" in line
    assert "update 0 and" in line
    assert "TypeError: hooks are not for me" in line
    assert_trained_as(weights(plain / "checkpoints" / "last.ckpt"), folder)
    assert (folder / "figures" / "loss.png").exists()  # it needs no snapshot


def test_figures_and_reports_that_fail_cost_one_line_each(run_train, monkeypatch, undisturbed):
    def fail(*_):
        raise np.linalg.LinAlgError("SVD did not converge" + 100 * " again")

    for name in ("layer_statistics.saturation_figure", "loss_history.loss_figure"):
        monkeypatch.setattr(f"ngram_mlp.callbacks.{name}", fail)
    monkeypatch.setattr("ngram_mlp.callbacks.verdicts.judge_training", fail)
    folder, out = run_train(*OPTIONS, "--observe.every_n_updates", "default")
    assert [line.split()[0] for line in failures(out)] == ["ActivationStatistics", "LossHistory", "TrainingVerdicts"]
    assert all(len(line) < 500 for line in failures(out))
    assert_trained_as(undisturbed, folder)
    assert (folder / "figures" / "update_to_data.png").exists()


@pytest.mark.slow
def test_a_failure_in_one_process_leaves_the_others_in_step(tmp_path, corpus_file):
    """A snapshot of batch norm exchanges statistics, so that all processes have to take it, or none."""
    (tmp_path / "fragile.py").write_text(FRAGILE_IN_ONE_PROCESS)
    command = [sys.executable, str(PROJECT / "scripts" / "train.py"), "--data.corpus", str(corpus_file)]
    command += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_steps", "100"]
    command += ["--observe.every_n_updates", "off"]
    command += ["--observe.quantities+=fragile.Fragile", "--observe.quantities.every_n_updates", "10/0/0"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT / 'src'}", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert [line.split()[0] for line in failures(process.stdout)] == ["Fragile"]
    assert len(np.load(tmp_path / "runs/default/version_0/losses.npy")) == 100


@pytest.mark.parametrize("hook", ["observe", "draw"])
def test_it_raises_with_detect_anomaly(hook, run_train):
    Fragile.hook = hook
    with pytest.raises(ValueError, match="no such"):
        run_train(*OPTIONS, *QUANTITIES, "--trainer.detect_anomaly", "true")


def test_it_raises_in_all_other_tests(run_train, monkeypatch):
    monkeypatch.setattr(harmless, "strict", STRICT)
    Fragile.hook = "observe"
    with pytest.raises(ValueError, match="no such"):
        run_train(*OPTIONS, *QUANTITIES)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("give at least 1", every_n_updates=0), "every_n_updates 0: give at least 1"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            "cannot be written (No space left on device); free some space",
        ),
    ],
)
def test_a_mistake_and_a_full_disk_end_the_run_in_one_line(error, line, run_train, fails):
    Fragile.hook, Fragile.error = "observe", error
    assert line in fails(run_train, *OPTIONS, *QUANTITIES)


def test_a_pattern_that_no_layer_matches_ends_the_run(run_train, fails):
    line = fails(run_train, *OPTIONS, "--observe.every_n_updates", "default", "--observe.layers", "xyz")
    assert "--observe.layers xyz: matches no layer; the layers are embedding" in line


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (SystemExit(7), 7)])
def test_what_ends_a_process_ends_it(error, status, run_train):
    Fragile.hook, Fragile.error = "observe", error
    with pytest.raises(SystemExit) as stop:
        run_train(*OPTIONS, *QUANTITIES)
    assert stop.value.code == status


class Counting(Quantity):
    """Keeps a number in checkpoints."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state_dict):
        self.number = state_dict["number"]


def test_quantities_of_one_class_find_their_states_whatever_stands_before_them():
    saved = Inspect([Counting(1), Counting(2), Counting(3)]).state_dict()
    quantities = [Witness(), Counting(0), Fragile(), Counting(0), Counting(0)]
    Inspect(quantities).load_state_dict(saved)
    assert [one.number for one in quantities if isinstance(one, Counting)] == [1, 2, 3]


DRAWING = """
import os
from pathlib import Path

from ngram_mlp.callbacks import Quantity

def broken():
    raise LookupError("no such curve")

def of_this(*values):
    from matplotlib.figure import Figure
    Path(str(len(values))).write_text(str(os.getpid()))
    return Figure((3, 1))

class Drawing(Quantity):
    def draw(self, model, recorder):
        recorder.figure("broken", broken)
        recorder.figure("local", lambda: of_this())
        recorder.figure("fine", of_this, 1)
        Path("here").write_text(str(os.getpid()))
"""


def test_the_figures_of_a_command_are_drawn_by_another_process(tmp_path, corpus_file):
    """Not those of these tests, where matplotlib is imported already."""
    (tmp_path / "drawing.py").write_text(DRAWING)
    command = [sys.executable, str(PROJECT / "scripts" / "train.py"), "--data.corpus", str(corpus_file)]
    command += ["--observe.quantities+=drawing.Drawing", "--observe.quantities.every_n_updates", "20/20/20", *OPTIONS]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT / 'src'}", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    (line,) = failures(process.stdout)
    assert line.startswith("The figure broken failed at update 0 and was switched off: LookupError: no such curve")
    figures = {path.stem for path in tmp_path.glob("runs/**/figures/*.png")}
    assert {"loss", "activations", "local", "fine"} <= figures
    assert "broken" not in figures
    here, without, given = ((tmp_path / name).read_text() for name in ("here", "0", "1"))
    assert without == here  # a local function, which another process could not find
    assert given != here


ENDING = """
import os
import signal

from pytorch_lightning import Callback

class Ending(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 51:
            os.kill(os.getpid(), signal.SIGTERM)
"""


def images_after(folder, updates, *calls):
    """The steps of the curve's images after some calls of train.py with their statuses; checks those of the others."""
    command = [sys.executable, str(PROJECT / "scripts" / "train.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}{os.pathsep}{PROJECT / 'src'}"}
    for status, *words in calls:
        process = subprocess.run([*command, *words], cwd=folder, env=environment, capture_output=True, check=False)
        assert process.returncode == status, process.stderr.decode()
    (run,) = folder.glob("runs/*/**/version_0")
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    names = [name for name in events.Tags()["images"] if name != "views/loss"]
    assert {"views/embedding", "views/activations", "views/update_to_data"} <= {*names}
    for name in names:
        assert [event.step for event in events.Images(name)] == updates, name
    return [event.step for event in events.Images("views/loss")]


def test_no_figure_is_lost_or_doubled_by_an_end_and_a_longer_run(tmp_path, corpus_file):
    (tmp_path / "ending.py").write_text(ENDING)
    new = ("--data.corpus", str(corpus_file), *OPTIONS, "--observe.every_n_updates", "10/50/50")
    new += ("--trainer.max_steps", "51", "--trainer.val_check_interval", "50", "--trainer.callbacks+=ending.Ending")
    resume = (0, "--ckpt_path", "last", "--trainer.callbacks", "null")
    assert images_after(tmp_path, [0, 50], (143, *new), resume)[-1] == 51
    assert images_after(tmp_path, [0, 50, 100, 150], (*resume, "--trainer.max_steps", "151")) == [51, 151]


@pytest.mark.slow
def test_a_figure_that_is_due_before_a_checkpoint_is_not_lost_with_the_process(tmp_path, corpus_file):
    """The resumed run keeps TensorBoard's events of before the checkpoint, and draws the later figures again."""
    command = [sys.executable, str(PROJECT / "scripts" / "train.py"), "--data.corpus", str(corpus_file)]
    command += [*OPTIONS, "--engine", "eager", "--trainer.max_steps", "3000", "--checkpoint_every", "1000"]
    command += ["--observe.every_n_updates", "100/500/500", "--name", "cut"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    folder = tmp_path / "runs/cut/version_0"
    while process.poll() is None and not [*tmp_path.rglob("last.ckpt")]:
        time.sleep(0.01)
    process.kill()
    process.wait()
    (folder,) = tmp_path.glob("runs/cut/**/version_0")
    resume = [*command[:2], "--resume", str(folder)]
    subprocess.run(resume, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=120)
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    for name in ("views/embedding", "views/activations", "views/update_to_data"):
        assert [event.step for event in events.Images(name)] == [0, 500, 1000, 1500, 2000, 2500, 2999], name


@pytest.mark.slow
def test_a_signal_does_not_wait_for_a_queue_of_figures(tmp_path, corpus_file):
    command = [sys.executable, str(PROJECT / "scripts" / "train.py"), "--data.corpus", str(corpus_file), *OPTIONS]
    command += ["--trainer.max_steps", "100000", "--observe.every_n_updates", "1/1/1"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and len([*tmp_path.rglob("*.png")]) < 5:
        time.sleep(0.05)
    process.terminate()
    began = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "resume with: " in out
    assert time.monotonic() - began < 30  # not the minute and more that some hundred figures would take
