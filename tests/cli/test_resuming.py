"""A run that was interrupted goes on in its folder, to the bits of a run that never was."""

import json
import os
import re
import shutil
import signal
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tensorboard.summary.writer import event_file_writer

from ngram_mlp.callbacks import UpdateProgress
from ngram_mlp.cli import train
from ngram_mlp.data.datamodule import stream_of
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.loading import load_model
from runlab import alone_in, read_checkpoint
from tests.cli.folders import assert_same_run, scalars
from tests.conftest import PROJECT

DEFAULT = PROJECT / "configs" / "default.yaml"
OPTIONS = (
    *("--trainer.max_steps", "330", "--trainer.val_check_interval", "100", "--trainer.log_every_n_steps", "50"),
    *("--checkpoint_every", "30", "--model.n_hidden", "20", "--engine", "eager"),
)


class SabotageError(Exception):
    """What a faulty callback or engine raises."""


def sabotage(patch, moment, update):
    """Has the code raise at a moment of the first minibatch, or of the first call of a hook, from `update` on."""
    owner = UpdateProgress if moment.startswith("on_train_batch") else LanguageModel
    original = getattr(owner, moment)

    def raising(self, *args):
        trainer = args[0] if owner is UpdateProgress else self.trainer
        if trainer.global_step >= update:
            raise SabotageError
        return original(self, *args)

    patch.setattr(owner, moment, raising)


WITNESSED = (*OPTIONS, "--trainer.callbacks+=tests.cli.folders.Witness")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sample_words):
    """A corpus and three runs on it: whole, whole with a witness, and one that an exception ended at update 210."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "words.txt").write_text("\n".join(sample_words[::63][:300]))
    shared = ("--data.corpus", str(folder / "words.txt"), "--runs_dir", str(folder / "runs"))
    shared += ("--observe.every_n_updates", "off", "--name")
    train.main(DEFAULT, [*OPTIONS, *shared, "whole"])
    train.main(DEFAULT, [*WITNESSED, *shared, "witnessed"])
    with pytest.MonkeyPatch.context() as patch:
        sabotage(patch, "on_train_batch_start", 210)
        with pytest.raises(SabotageError):
            train.main(DEFAULT, [*OPTIONS, *shared, "cut"])
    return folder


@pytest.fixture
def corpus_file(trained):
    """The corpus that `run_train` takes, too."""
    return trained / "words.txt"


@pytest.fixture
def whole(trained):
    """The folder of a run that was never interrupted."""
    return trained / "runs" / "whole" / "version_0"


@pytest.fixture
def witnessed(trained):
    """The same with a callback of a user's, which has a state."""
    return trained / "runs" / "witnessed" / "version_0"


INTERRUPTIONS = given(
    moment=st.sampled_from(
        ["training_step", "on_train_batch_start", "on_train_batch_end", "validation_step", "on_validation_epoch_end"]
    ),
    update=st.integers(0, 330),
    seconds=st.sampled_from([0.0, 1.0]),
    times=st.integers(1, 2),
)
MANY, FEW = (
    settings(
        max_examples=n, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    for n in (100, 1)
)


@FEW
@INTERRUPTIONS
@example(moment="training_step", update=120, seconds=0.0, times=1)
@example(moment="on_validation_epoch_end", update=200, seconds=0.0, times=2)
@example(moment="on_train_batch_end", update=300, seconds=1.0, times=1)
def test_an_exception_anywhere_leaves_a_state_to_go_on_from(
    witnessed, run_train, tmp_path, moment, update, seconds, times
):
    interrupt_and_go_on(witnessed, run_train, tmp_path, moment, update, seconds, times)


@pytest.mark.slow
@MANY
@INTERRUPTIONS
def test_many_exceptions_anywhere(witnessed, run_train, tmp_path, moment, update, seconds, times):
    interrupt_and_go_on(witnessed, run_train, tmp_path, moment, update, seconds, times)


def is_interrupted(folder):
    return (folder / "checkpoints" / "last.ckpt").exists() and not (folder / "metrics.json").exists()


def interrupt_and_go_on(whole, run_train, tmp_path, moment, update, seconds, times):
    folder = tmp_path / "runs" / "cut" / "version_0"
    shutil.rmtree(folder, ignore_errors=True)
    # TensorBoard's files of one second are in the order of this counter, as text: in one process 10 is before 9.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
        with pytest.MonkeyPatch.context() as sabotaged:
            sabotaged.setattr("runlab.one._run_checkpoints.SECONDS_AT_RISK", seconds)
            sabotage(sabotaged, moment, update)
            for form in [WITNESSED, ("--ckpt_path", "last")][:times]:
                if form == WITNESSED or is_interrupted(folder):
                    with suppress(SabotageError):
                        run_train(*form, "--name", "cut")
        if is_interrupted(folder):
            assert run_train("--name", "cut", "--ckpt_path", "last")[0] == folder
        if (folder / "metrics.json").exists():
            assert_same_run(whole, folder)
        else:
            assert update <= 60  # the first checkpoint comes at 30, or with the end of the block in training then


@pytest.mark.parametrize("engine", ["eager", pytest.param("lightning", marks=pytest.mark.slow)])
def test_clipped_accumulated_and_averaged_updates_go_on_as_well(engine, run_train):
    averaging = ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay", "0.95")
    options = (*OPTIONS, "--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "0.5", *averaging)
    options += ("--engine", engine)
    whole, _ = run_train(*options, "--name", "whole")
    with pytest.MonkeyPatch.context() as patch:
        sabotage(patch, "on_train_batch_end", 210)
        with pytest.raises(SabotageError):
            run_train(*options, "--name", "cut")
    folder, _ = run_train("--name", "cut", "--ckpt_path", "last")
    assert_same_run(whole, folder)
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt").content["averaging_state"]["n_averaged"] == 330
    assert json.loads((folder / "metrics.json").read_text())["engine"] == engine


@pytest.fixture
def cut(trained, tmp_path):
    """The folder of a run that an exception ended at update 210, having saved 180."""
    folder = tmp_path / "runs" / "default" / "version_0"
    shutil.copytree(trained / "runs" / "cut" / "version_0", folder)
    configuration = (folder / "config.yaml").read_text()
    for before, now in ((f"runs_dir: {trained / 'runs'}", "runs_dir: runs"), ("name: cut", "name: default")):
        assert before in configuration
        configuration = configuration.replace(before, now)
    (folder / "config.yaml").write_text(configuration)
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt").update >= 180
    return folder


@pytest.mark.parametrize(
    "form",
    [
        ["--resume", "runs/default/version_0"],
        ["--resume", "runs/default/version_0/checkpoints/last.ckpt"],
        ["--ckpt_path", "last"],
        ["--ckpt_path=runs/default/version_0/checkpoints/last.ckpt"],
        ["--resume", "runs/default/version_0", *OPTIONS],  # said again, which changes nothing
        ["--ckpt_path", "last", "--config", "name.yaml"],
    ],
    ids=lambda form: " ".join(form)[:60] + str(len(form)),
)
def test_every_form_goes_on_with_the_runs_own_configuration(cut, whole, run_train, tmp_path, form):
    configuration = (cut / "config.yaml").read_text()
    (tmp_path / "name.yaml").write_text("name: default\nruns_dir: runs")
    (cut / "checkpoints" / ".last.ckpt.killed.part").write_text("half a file of a process that was killed")
    folder, _ = run_train(*form)
    assert folder == cut
    assert_same_run(whole, folder)
    assert (folder / "config.yaml").read_text() == configuration
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--trainer.fast_dev_run", "true"], "--trainer.fast_dev_run True: the resumed run would not train"),
        (["--trainer.limit_train_batches", "0"], "--trainer.limit_train_batches 0"),
        (["--trainer.val_check_interval", "0"], "--trainer.val_check_interval 0: give a number above 0"),
        (["--trainer.check_val_every_n_epoch", "1", "--trainer.val_check_interval", "99999"], "--trainer: `val_check"),
        (["--config", "name.yaml"], "--config name.yaml: gives another location, elsewhere"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_run_that_does_not_resume_keeps_its_configuration(options, told, cut, whole, fails, run_train, tmp_path):
    (tmp_path / "name.yaml").write_text("name: elsewhere\nruns_dir: runs")
    before = {path.name: path.read_bytes() for path in cut.glob("*.yaml")}
    words = ["--resume", "runs/default/version_0", *options]
    assert told in fails(train.main, DEFAULT, words)
    assert {path.name: path.read_bytes() for path in cut.glob("*.yaml")} == before
    run_train("--resume", "runs/default/version_0")
    assert_same_run(whole, cut)


def test_last_is_the_newest_run_that_has_a_checkpoint(run_train, tmp_path):
    first, _ = run_train(*OPTIONS)
    second, _ = run_train(*OPTIONS)
    (tmp_path / "runs" / "default" / "version_7").mkdir()  # a run that was killed before its first checkpoint
    more = ("--trainer.max_steps", "340")
    assert run_train("--ckpt_path", "last", *more)[0] == second
    (second / "checkpoints" / "last.ckpt").unlink()
    assert run_train("--ckpt_path", "last", *more)[0] == first


def test_nothing_to_go_on_from_is_an_error(fails, cut, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no run in runs/other has" in fails(train.main, DEFAULT, ["--ckpt_path", "last", "--name", "other"])
    assert "--resume nowhere" in fails(train.main, DEFAULT, ["--resume", "nowhere"])
    assert "not both" in fails(train.main, DEFAULT, ["--resume", str(cut), "--ckpt_path", "last"])
    (cut / "checkpoints" / "last.ckpt").unlink()
    assert "checkpoints/last.ckpt" in fails(train.main, DEFAULT, ["--resume", str(cut)])
    assert sorted(path.name for path in cut.parent.iterdir()) == ["version_0"]


@pytest.mark.parametrize(
    ("option", "value", "before"),
    [
        ("--model.n_hidden", "21", "20"),
        ("--data.block_size", "4", "3"),
        ("--data.batch_size", "64", "32"),
        ("--seed_everything", "1", "2147483647"),
        ("--model.optimizer.momentum", "0.9", "0.0"),
        ("--model.optimizer", "torch.optim.Adam", "SGD"),
        ("--trainer.max_steps", "20", "update 210"),
        ("--name", "other", "runs/default/version_0"),
        ("--runs_dir", "other", "runs/default/version_0"),
    ],
)
def test_what_cannot_change_is_refused_and_the_folder_untouched(cut, fails, option, value, before):
    contents = {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()}
    for form in (["--resume", str(cut)], ["--ckpt_path", str(cut / "checkpoints" / "last.ckpt")]):
        line = fails(train.main, DEFAULT, [*form, option, value])
        assert option in line
        assert value in line or option in ("--name", "--runs_dir")
        assert before in line
    assert {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()} == contents


def test_a_checkpoint_that_left_its_folder_is_compared_with_what_is_given(
    cut, whole, run_train, corpus_file, fails, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    stray = tmp_path / "stray.ckpt"
    shutil.copyfile(cut / "checkpoints" / "last.ckpt", stray)
    given = ["--ckpt_path", str(stray), "--data.corpus", str(corpus_file)]
    assert "--model.n_hidden 200" in fails(train.main, DEFAULT, given)
    rest, _ = run_train(*OPTIONS, "--ckpt_path", str(stray))
    assert rest.parent.name == "n_hidden=20"  # a new run, named as one
    assert (rest / "losses.npy").read_bytes() == (whole / "losses.npy").read_bytes()


def test_a_learning_rate_given_with_a_checkpoint_is_the_one_trained_with(cut, run_train):
    checkpoint = read_checkpoint(cut / "checkpoints" / "last.ckpt")
    first, configuration = checkpoint.update, (cut / "config.yaml").read_text()
    folder, _ = run_train(
        "--resume", str(cut), "--model.optimizer.lr", "0.02", "--model.lr_scheduler.milestones", "[9,280]"
    )
    losses = np.load(folder / "losses.npy")
    assert [rate for step, rate in scalars(folder)["lr-SGD"] if step > first] == pytest.approx([2e-3, 2e-4])
    # The updates, written out: the rate has met its first milestone long before the checkpoint.
    model = load_model(checkpoint, LanguageModel).train()
    generator = torch.Generator()
    generator.set_state(stream_of(checkpoint)["minibatches"]["generator"])
    contexts, targets = training_examples(run_train.corpus, model.vocabulary)
    for update in range(first, first + 20):
        drawn = torch.randint(0, len(targets), (32,), generator=generator)
        loss = torch.nn.functional.cross_entropy(model(contexts[drawn]), targets[drawn])
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.002 * parameter.grad
        assert losses[update] == pytest.approx(loss.item(), rel=1e-5)
    assert (folder / f"config-until-{first}.yaml").read_text() == configuration
    assert "lr: 0.02" in (folder / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("schedule", "option", "rate"),
    [
        (["OneCycleLR", "--model.lr_scheduler.total_steps", "60"], ["--model.lr_scheduler.max_lr", "0.4"], 0.4),
        (["torch.optim.lr_scheduler.ReduceLROnPlateau"], ["--model.optimizer.lr", "0.02"], 0.02),
    ],
)
def test_the_rate_of_a_schedule_that_keeps_more_than_one_may_be_changed(schedule, option, rate, run_train):
    options = ["--trainer.max_steps", "18", "--trainer.log_every_n_steps", "1", "--model.lr_scheduler", *schedule]
    peak = ["--model.lr_scheduler.max_lr", "0.1"] if "OneCycleLR" in schedule else []
    run_train(*options, *peak)
    folder, _ = run_train("--ckpt_path", "last", "--trainer.max_steps", "40", *option)
    rates = [value for step, value in scalars(folder)["lr-SGD"] if step >= 18]
    if not peak:
        assert rates == pytest.approx([rate] * 22)
        return
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    expected, steps = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, 60), []
    for _ in range(40):
        steps.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        expected.step()
    assert rates == pytest.approx(steps[18:], rel=1e-5)


def training_examples(corpus, characters):
    from ngram_mlp.data import Tokenizer, build_ngrams, split_words

    ngrams = build_ngrams(split_words(corpus.read_text().split())[0], Tokenizer(characters), 3)
    return ngrams.contexts.long(), ngrams.targets.long()


def test_resume_takes_a_runs_last_checkpoint_alone(cut, fails, monkeypatch, tmp_path):
    other = cut / "checkpoints" / "best-9.ckpt"
    shutil.copyfile(cut / "checkpoints" / "last.ckpt", other)
    assert "is not a run's checkpoints/last.ckpt; give the run's folder" in fails(
        train.main, DEFAULT, ["--resume", str(other)]
    )
    other.unlink()
    (tmp_path / "numbers.yaml").write_text("ckpt_path: 5")
    assert "ckpt_path: 5 is not a string" in fails(train.main, DEFAULT, ["--config", str(tmp_path / "numbers.yaml")])
    monkeypatch.chdir(cut / "checkpoints")
    assert "--model.n_hidden 8" in fails(train.main, DEFAULT, ["--resume", "last.ckpt", "--model.n_hidden", "8"])


def test_an_interrupted_run_that_had_finished_before_may_end_where_it_is(run_train):
    folder, _ = run_train(*OPTIONS, "--trainer.max_steps", "30")
    kept = (folder / "metrics.json").read_bytes()
    run_train("--ckpt_path", "last", "--trainer.max_steps", "60")
    (folder / "metrics.json").write_bytes(kept)  # as an interruption at update 60 leaves it
    run_train("--resume", str(folder), "--trainer.max_steps", "60")
    assert json.loads((folder / "metrics.json").read_text())["updates"] == 60


def test_a_finished_run_goes_on_to_more_updates_and_a_changed_interval(run_train, whole):
    folder, _ = run_train(*OPTIONS, "--trainer.max_steps", "100")
    run_train("--ckpt_path", "last", "--trainer.max_steps", "330", "--trainer.val_check_interval", "110")
    assert len(np.load(folder / "losses.npy")) == 330
    assert [step for step, _ in scalars(folder)["val/loss"]] == [99, 109, 219, 329]
    assert (folder / "losses.npy").read_bytes() == (whole / "losses.npy").read_bytes()
    assert json.loads((folder / "metrics.json").read_text())["updates"] == 330


def test_a_moved_corpus_is_known_by_its_content_and_another_is_refused(cut, corpus_file, fails, tmp_path):
    moved = tmp_path / "moved.txt"
    shutil.copyfile(corpus_file, moved)
    configuration = (cut / "config.yaml").read_text()
    (cut / "config.yaml").write_text(configuration.replace(str(corpus_file), str(tmp_path / "words.txt")))
    assert "words.txt" in fails(train.main, DEFAULT, ["--resume", str(cut)])
    moved.write_text(moved.read_text() + "\nanna")
    line = fails(train.main, DEFAULT, ["--resume", str(cut), "--data.corpus", str(moved)])
    assert "'words': 300" in line
    assert "'words': 301" in line
    moved.write_text(moved.read_text().removesuffix("\nanna"))
    train.main(DEFAULT, ["--resume", str(cut), "--data.corpus", str(moved)])
    assert len(np.load(cut / "losses.npy")) == 330


def test_two_processes_do_not_train_in_one_folder(cut, fails):
    with alone_in(cut):
        assert f"process {os.getpid()} on" in fails(train.main, DEFAULT, ["--resume", str(cut)])


def test_a_diverged_run_shows_its_curve_and_goes_on_from_before_with_a_lower_rate(
    whole, run_train, fails, tmp_path, monkeypatch
):
    monkeypatch.setattr("runlab.one._run_checkpoints.SECONDS_AT_RISK", 0.0)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", diverging_after(150))
    line = fails(run_train, *OPTIONS, "--observe.every_n_updates", "default", "--name", "default")
    (update,) = re.findall(
        r"^error: diverged at update (\d+): the training loss is inf; lower the optimizer's lr", line
    )
    assert (tmp_path / "runs/default/version_0/figures/loss.png").exists()
    assert len(np.load(tmp_path / "runs/default/version_0/losses.npy")) == int(update)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    saved = read_checkpoint(tmp_path / "runs/default/version_0/checkpoints/last.ckpt").update
    assert 0 < saved <= 150
    folder, _ = run_train("--ckpt_path", "last", "--model.optimizer.lr", "0.01")
    losses = np.load(folder / "losses.npy")
    assert np.isfinite(losses).all()
    assert (losses[:saved] == np.load(whole / "losses.npy")[:saved]).all()
    assert losses[saved] == np.load(whole / "losses.npy")[saved]  # the loss is computed before the first changed update
    assert (losses[saved + 1 :] != np.load(whole / "losses.npy")[saved + 1 :]).any()


def diverging_after(updates):
    original, calls = torch.nn.functional.cross_entropy, []

    def cross_entropy(*args, **kwargs):
        loss = original(*args, **kwargs)
        calls.extend([1] * (loss.requires_grad))
        return loss * float("inf") if len(calls) > updates else loss

    return cross_entropy


@pytest.mark.parametrize(
    ("signals", "options", "status"),
    [
        ([signal.SIGTERM], [], 143),
        ([signal.SIGINT], [], 130),
        ([signal.SIGTERM, signal.SIGINT], [], 130),
        ([signal.SIGTERM], ["--trainer.enable_checkpointing", "false"], 143),
        ([signal.SIGINT], ["--trainer.enable_checkpointing", "false"], 130),
    ],
)
def test_signals_end_a_run_with_their_status_and_a_second_one_at_once(
    signals, options, status, whole, run_train, monkeypatch, capsys
):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    end_block, updates = UpdateProgress.on_train_batch_end, []

    def send(self, trainer, *args):
        updates.append(trainer.global_step)
        if updates[-1] == 150:
            for number in signals:
                os.kill(os.getpid(), number)
        end_block(self, trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(UpdateProgress, "on_train_batch_end", send)
        with pytest.raises(SystemExit) as stop:
            run_train(*OPTIONS, *options)
    assert stop.value.code == status
    assert updates[-1] == 150
    assert "interrupted" in capsys.readouterr().out
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    if not options:
        assert_same_run(whole, run_train("--ckpt_path", "last")[0])


EPOCHS = ("--trainer.max_steps", "-1", "--trainer.max_epochs", "2", "--trainer.limit_train_batches", "20")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ("--trainer.max_steps", "40"),
            "--trainer.max_steps 40: the run has reached update 40; increase it to continue training",
        ),
        ((*EPOCHS, "--data.sampling", "epochs"), "--trainer.max_epochs 2: the run has trained 2 epochs; increase it"),
    ],
)
def test_a_finished_run_that_has_nothing_left_to_train_stays_as_it_is(options, told, run_train, fails):
    folder, _ = run_train(*options, "--engine", "lightning")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    for resume in (("--ckpt_path", str(folder)), ("--ckpt_path", "last"), ("--resume", str(folder))):
        assert told in fails(run_train, *resume)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    more = ("--trainer.max_steps", "50") if options[1] == "40" else ("--trainer.max_epochs", "3")
    _, out = run_train("--resume", str(folder), *more)
    assert "trained to update" in out


def test_of_several_files_the_last_one_says_which_run_goes_on(run_train, tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\n")
        run_train(*OPTIONS, "--trainer.max_steps", "30", "--config", f"{name}.yaml")
    both = ("--config", "one.yaml", "--config", "two.yaml", "--ckpt_path", "last", "--trainer.max_steps", "60")
    assert run_train(*both)[0].parts[-3:-1] == ("two", "n_hidden=20")
