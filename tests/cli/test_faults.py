"""Real processes that are killed, asked to end, or run out of disk, and then go on."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ngram_mlp import callbacks
from ngram_mlp.cli import train
from ngram_mlp.models import LanguageModel
from runlab import read_checkpoint
from tests.cli.folders import assert_same_run
from tests.conftest import PROJECT, on_linux

OPTIONS = (
    *("--trainer.max_steps", "1500", "--trainer.val_check_interval", "150", "--trainer.log_every_n_steps", "50"),
    *("--checkpoint_every", "50", "--model.n_hidden", "50", "--engine", "eager"),
    *("--observe.every_n_updates", "100/500/0"),
)


@pytest.fixture(scope="module")
def words(tmp_path_factory, sample_words):
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text("\n".join(sample_words[::63][:300]))
    return path


@pytest.fixture
def corpus_file(words):
    """The corpus that `run_train` takes, too: the same for all tests, so that one run is compared with."""
    return words


@pytest.fixture(scope="module")
def whole(words):
    """The folder of a run that was never interrupted."""
    options = ("--data.corpus", str(words), "--runs_dir", str(words.parent / "runs"), *OPTIONS)
    train.main(PROJECT / "configs" / "default.yaml", [*options, "--name", "whole"])
    return words.parent / "runs" / "whole" / "version_0"


def start(*args, cwd, **kwargs):
    command = [sys.executable, str(PROJECT / "scripts" / "train.py"), *args]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def begin(folder, corpus_file, *args, **kwargs):
    """A process that trains in `folder`, from the beginning or from its last checkpoint, and has saved a state."""
    last = folder / "checkpoints" / "last.ckpt"
    new = ("--name", folder.parent.name, "--data.corpus", str(corpus_file), *OPTIONS)
    before = last.stat().st_mtime_ns if last.exists() else None
    process = start(*(["--resume", str(folder)] if before else new), *args, cwd=folder.parents[2], **kwargs)
    while process.poll() is None and not (last.exists() and last.stat().st_mtime_ns != before):
        time.sleep(0.002)
    return process


def kill_and_go_on(whole, tmp_path, corpus_file, run_train, kills, number=signal.SIGKILL):
    folder = tmp_path / "runs" / "killed" / "version_0"
    moments = random.Random(kills)
    reached = []
    while len(reached) < kills and not (folder / "metrics.json").exists():  # which ends a run
        process = begin(folder, corpus_file)
        # About as long as the run takes: the last kills may find it finished, and writing its reports.
        time.sleep(moments.uniform(0, 0.8 if len(reached) < kills - 1 else 1.6) / kills**0.5)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode in (-number, 128 + number, 0)  # 0: it had just ended
        reached.append(read_checkpoint(folder / "checkpoints" / "last.ckpt").update)
    print("killed after the checkpoints of updates", reached)  # shown where the test fails
    assert reached == sorted(reached)
    assert len(reached) > kills / 2
    if not (folder / "metrics.json").exists():
        assert run_train("--name", "killed", "--ckpt_path", "last")[0] == folder
    assert_same_run(whole, folder)
    assert not list(folder.rglob("*.part"))


def test_a_run_that_is_killed_twice_ends_as_if_it_never_was(whole, tmp_path, corpus_file, run_train):
    kill_and_go_on(whole, tmp_path, corpus_file, run_train, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_twenty_times_ends_as_if_it_never_was(number, whole, tmp_path, corpus_file, run_train):
    kill_and_go_on(whole, tmp_path, corpus_file, run_train, kills=20, number=number)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_ends_a_run_with_its_state_and_the_command_to_go_on(
    number, status, whole, tmp_path, corpus_file, run_train
):
    folder = tmp_path / "runs" / "asked" / "version_0"
    process = begin(folder, corpus_file, "--checkpoint_every", "400")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert err == ""
    saved = read_checkpoint(folder / "checkpoints" / "last.ckpt").update
    assert f"interrupted by {number.name} at update {saved}" in out
    command = out.split("resume with: ")[1].splitlines()[0]
    assert len(np.load(folder / "losses.npy")) == saved
    assert command == f"{sys.executable} {PROJECT / 'scripts' / 'train.py'} --resume runs/asked/version_0"
    run_train(*command.split()[2:])
    assert_same_run(whole, folder)


@pytest.mark.parametrize(
    ("owner", "hook"),
    [
        pytest.param(LanguageModel, "on_validation_epoch_start", marks=pytest.mark.slow),
        (LanguageModel, "training_step"),
        pytest.param(callbacks.Inspect, "on_train_end", marks=pytest.mark.slow),
    ],
    ids=["in the last validation", "in a long minibatch", "when it is over"],
)
def test_a_signal_ends_a_run_soon_wherever_it_is(owner, hook, whole, run_train, monkeypatch):
    original = getattr(owner, hook)

    def long(self, *args):
        trainer = self.trainer if owner is LanguageModel else args[0]
        if trainer.global_step >= 1499 and trainer.state.fn == "fit":
            signal.raise_signal(signal.SIGTERM)
            for _ in range(6_000):
                time.sleep(0.01)
        return original(self, *args)

    began = time.monotonic()
    with monkeypatch.context() as patched:
        patched.setattr(owner, hook, long)
        patched.setattr("runlab.one._run_checkpoints.SECONDS_TO_END", 0.1)
        with pytest.raises(SystemExit) as ended:
            run_train(*OPTIONS)
    assert ended.value.code == 143
    assert time.monotonic() - began < 30
    folder, _ = run_train("--ckpt_path", "last")
    assert_same_run(whole, folder)


@pytest.mark.parametrize("hook", ["on_sanity_check_start", "on_train_start"])
def test_a_signal_before_the_first_update_ends_a_run(hook, run_train, monkeypatch):
    """As where its network is judged, in which no other callback is told of anything."""

    def long(*_):
        signal.raise_signal(signal.SIGTERM)
        for _ in range(6_000):
            time.sleep(0.01)
        raise AssertionError("nothing happened")

    monkeypatch.setattr(callbacks.InitializationCheck, hook, long)
    monkeypatch.setattr("runlab.one._run_checkpoints.SECONDS_TO_END", 0.1)
    with pytest.raises(SystemExit) as ended:
        run_train(*OPTIONS, "--trainer.num_sanity_val_steps", "1")
    assert ended.value.code == 143


@pytest.mark.slow
@on_linux
def test_a_disk_that_fills_up_with_events_is_one_line(tmp_path, corpus_file):
    """A limit on the size of files stands for a disk; what is written beyond it fails as on a full one."""
    process = begin(tmp_path / "runs" / "full" / "version_0", corpus_file, "--trainer.log_every_n_steps", "1")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (60_000, 60_000))  # the checkpoints are smaller
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err == "error: a file of the run, or the output, cannot be written (File too large); free some space\n"
    assert "resume with: " in out
    assert not list(tmp_path.rglob("*.part"))


@on_linux
@pytest.mark.slow
def test_a_disk_that_fills_up_spares_the_checkpoint_before(whole, tmp_path, corpus_file, run_train):
    folder = tmp_path / "runs" / "full" / "version_0"
    process = begin(folder, corpus_file)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "cannot be written (File too large); free some space" in err
    assert "resume with: " in out
    assert run_train("--name", "full", "--ckpt_path", "last")[0] == folder
    assert_same_run(whole, folder)


@pytest.mark.parametrize(
    "name",
    [
        *("config.yaml", "last.ckpt"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("best-150.ckpt", "metrics.json", "losses.npy", "samples.txt")
        ),
    ],
)
def test_a_disk_that_is_full_for_one_file_names_it(name, run_train, fails, tmp_path, monkeypatch):
    replace = os.replace

    def fill(source, target):
        if str(target).endswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    arguments = ["--data.corpus", str(run_train.corpus), *OPTIONS, "--trainer.max_steps", "150", "--name", "default"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fill)
        line = fails(train.main, PROJECT / "configs" / "default.yaml", arguments)
    assert f"{name} cannot be written (No space left on device); free some space" in line
    folder = tmp_path / "runs" / "default" / "version_0"
    assert folder.exists() == (name != "config.yaml")
    if (folder / "checkpoints" / "last.ckpt").exists():
        run_train("--ckpt_path", "last")
        assert_same_run(run_train(*arguments)[0], folder)
    assert not list(tmp_path.rglob("*.part"))
