"""Real processes that train one model together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ngram_mlp.cli import train
from tests.conftest import PROJECT, on_linux

DEFAULT = PROJECT / "configs" / "default.yaml"
SCRIPT = str(PROJECT / "scripts" / "train.py")
DDP = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
OPTIONS = (
    *("--trainer.max_steps", "200", "--trainer.val_check_interval", "100", "--observe.every_n_updates", "50/100/0"),
    *("--model.n_layers", "2", "--model.n_hidden", "40", "--checkpoint_every", "50"),
    *("--name", "default"),
)
ALONE = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}


def start(*command, cwd):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env=ALONE | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same_training(alone, together):
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(together)[name], value, rtol=0, atol=1e-5, msg=name)
    np.testing.assert_allclose(np.load(together / "losses.npy"), np.load(alone / "losses.npy"), atol=1e-5)
    one, other = (json.loads((folder / "metrics.json").read_text()) for folder in (alone, together))
    for split in ("train", "val", "test"):
        assert other[split]["loss"] == pytest.approx(one[split]["loss"], abs=1e-5)


RENDEZVOUS = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", *RENDEZVOUS, SCRIPT)


@pytest.mark.parametrize(
    ("command", "statistic", "updates", "engine"),
    [
        pytest.param((SCRIPT,), "std", "200", "auto", id="started by the first"),
        pytest.param((SCRIPT,), "std", "200", "lightning", id="by ordinary Lightning", marks=pytest.mark.slow),
        pytest.param((SCRIPT,), "var", "500", "auto", id="by the variance", marks=pytest.mark.slow),
        pytest.param(TORCHRUN, "std", "500", "auto", id="torchrun", marks=pytest.mark.slow),
    ],
)
def test_two_processes_do_what_one_does(command, statistic, updates, engine, run_train, corpus_file, tmp_path):
    options = (*OPTIONS, "--model.batch_norm.statistic", statistic, "--trainer.max_steps", updates)
    options += ("--engine", engine)
    alone, _ = run_train(*options, "--name", "alone")
    more = ("--data.corpus", str(corpus_file), "--name", "together")
    process = start(*command, *options, *DDP, *more, cwd=tmp_path)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert out.count(f"trained to update {updates}") == 1  # the first process alone speaks
    assert [path.name for path in (tmp_path / "runs" / "together").iterdir()] == ["version_0"]
    together = tmp_path / "runs" / "together" / "version_0"
    assert_same_training(alone, together)
    assert len(list(together.glob("events.out.tfevents.*"))) == 1
    curves = [EventAccumulator(str(folder)).Reload() for folder in (alone, together)]
    assert curves[0].Tags()["scalars"] == curves[1].Tags()["scalars"]
    assert {path.name for path in (together / "figures").iterdir()} == {p.name for p in (alone / "figures").iterdir()}
    assert "Warning" not in out


@pytest.mark.slow
def test_an_interrupted_run_of_two_goes_on(run_train, corpus_file, tmp_path):
    alone, _ = run_train(*OPTIONS, "--trainer.max_steps", "3000", "--name", "alone")
    together = tmp_path / "runs" / "together" / "version_0"
    more = ("--data.corpus", str(corpus_file), "--name", "together", "--trainer.max_steps", "3000")
    process = start(SCRIPT, *OPTIONS, *DDP, *more, cwd=tmp_path)
    while process.poll() is None and not (together / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143, out
    assert "resume with: " in out
    process = start(SCRIPT, "--resume", str(together), cwd=tmp_path)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert len(np.load(together / "losses.npy")) == 3_000
    np.testing.assert_allclose(np.load(together / "losses.npy"), np.load(alone / "losses.npy"), atol=1e-3)


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_others(victim, corpus_file, tmp_path):
    more = ("--data.corpus", str(corpus_file), "--trainer.max_steps", "1000000")
    process = start(SCRIPT, *OPTIONS, *more, *DDP, cwd=tmp_path)
    last = tmp_path / "runs" / "default" / "version_0" / "checkpoints" / "last.ckpt"
    while process.poll() is None and not last.exists():
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    others = [int(pid) for pid in children if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(others) == 1
    os.kill([process.pid, *others][victim], signal.SIGKILL)
    out, _ = process.communicate(timeout=60)  # the pipe is closed when both have ended
    assert process.returncode != 0
    assert "Traceback" not in out
    assert "another process of this run has ended, so this one stops too" in out
    if victim == 1:
        assert "resume with: " in out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--data.batch_size", "33"), "--data.batch_size 33: cannot be split evenly among 2 processes"),
        (("--trainer.strategy", "ddp_spawn"), "--trainer.strategy"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_before_they_start(given, told, fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told in fails(train.main, DEFAULT, [*DDP, *given, "--data.corpus", "sample"])
    assert not list(tmp_path.glob("runs/*/version_*"))
