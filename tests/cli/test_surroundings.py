"""Commands in odd surroundings, as processes of their own: each works, or is one line."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from ngram_mlp.cli import sample, train
from ngram_mlp.places import DEFAULT_CONFIG
from tests.conftest import PROJECT, on_linux

SCRIPTS = PROJECT / "scripts"
SHORT = ("--trainer.max_steps", "30", "--observe.every_n_updates", "off")
PATHS = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT / "src")}
NO_UNICODE = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def call(script, *args, cwd, status=0, python=(), **environment):
    """Calls a script with these environment variables alone; returns what it printed."""
    out = subprocess.run(
        [sys.executable, *python, str(SCRIPTS / f"{script}.py"), *args],
        cwd=cwd,
        env=PATHS | {"MULTISTEP_CACHE_DIR": os.environ["MULTISTEP_CACHE_DIR"]} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=300,
        check=False,
    )
    text = (out.stdout + out.stderr).decode(errors="replace")
    assert out.returncode == status, text
    assert "Traceback" not in text
    return text


@pytest.fixture
def odd_folder(tmp_path):
    """A folder whose name a shell, an encoding or a compiler might stumble at, with words of that kind."""
    folder = tmp_path / "ä b→c"
    folder.mkdir()
    (folder / "wörter.txt").write_text("\n".join(["åsa", "björn", "михаил", "李"] * 30), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_without_home_terminal_and_unicode_in_a_folder_of_an_odd_name_behind_a_link(odd_folder):
    (odd_folder / "elsewhere").mkdir()
    (odd_folder / "runs").symlink_to(odd_folder / "elsewhere")
    out = call("train", "--data.corpus", "wörter.txt", *SHORT, cwd=odd_folder, **NO_UNICODE)
    assert "trained to update 30" in out
    assert (odd_folder / "elsewhere" / "default" / "version_0" / "metrics.json").exists()
    call("train", "--ckpt_path", "last", "--trainer.max_steps", "40", cwd=odd_folder, PYTHONIOENCODING="cp1252")
    sampled = call("sample", "--ckpt_path", "runs/default/version_0", cwd=odd_folder, PYTHONIOENCODING="cp1252")
    assert len(sampled.splitlines()) >= 20


@pytest.fixture
def checkpoint(run_train):
    folder, _ = run_train("--trainer.max_steps", "3")
    return str(folder)


@pytest.mark.parametrize("script", ["sample", pytest.param("train", marks=pytest.mark.slow)])
def test_a_reader_that_has_seen_enough_is_no_error(script, checkpoint, tmp_path):
    args = ["--ckpt_path", checkpoint, "--num", "100000"] if script == "sample" else ["--data.corpus", "sample"]
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), *args]
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | PATHS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=120) == 141
        assert process.stderr.read() == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("surroundings", "python", "reason"),
    [
        ({"PATH": "/nowhere"}, (), "cannot be compiled here"),
        ({}, ("-O",), "python -O"),
        (NO_UNICODE, (), None),
        ({"TMPDIR": "a b"}, (), None),
    ],
    ids=["no g++", "without assertions", "no Unicode", "a temporary folder with a blank"],
)
def test_what_cannot_be_compiled_is_trained_by_the_eager_engine(surroundings, python, reason, odd_folder):
    (odd_folder / "a b").mkdir()
    args = ("--data.corpus", "wörter.txt", *SHORT, "--trainer.max_steps", "100000", "--trainer.max_time", "00:00:00:20")
    surroundings = {key: str(odd_folder / value) if key == "TMPDIR" else value for key, value in surroundings.items()}
    out = call(
        "train", *args, cwd=odd_folder, python=python, MULTISTEP_CACHE_DIR=str(odd_folder / "new"), **surroundings
    )
    assert "engine  eager: " in out or (reason is None and "compiled in" in out)
    assert reason is None or reason in out


@on_linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, who may become another user")
@pytest.mark.parametrize("what", ["runs", "checkpoint"])
def test_a_user_without_rights_gets_one_line(what, checkpoint):
    """In a fork that has become nobody, since the interpreter may lie where nobody can read it."""
    with tempfile.TemporaryDirectory() as name:
        folder, closed = Path(name), Path(name, "closed")
        folder.chmod(0o777)
        shutil.copytree(checkpoint, closed / "version_0")
        closed.chmod(0o700)
        default = Path(shutil.copy(DEFAULT_CONFIG, folder))  # the project may lie where nobody can read it, too
        jobs = {
            "runs": lambda: train.main(default, [*SHORT, "--data.corpus", "sample", "--runs_dir", str(closed)]),
            "checkpoint": lambda: sample.main(["--ckpt_path", str(closed / "version_0")]),
        }
        status, lines = as_nobody(jobs[what], folder / "log")
    assert (status, len(lines)) == (2, 1), lines
    assert lines[0].startswith("error: ")
    assert str(closed) in lines[0]
    assert "Permission denied" in lines[0]


def as_nobody(job, log):
    """The exit status and the lines of a job in a process that has given up its rights."""
    if (child := os.fork()) == 0:
        status = 99
        try:
            with log.open("w") as sys.stdout:
                sys.stderr = sys.stdout
                os.chdir("/")
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                job()
                status = 0
        except SystemExit as stop:
            status = stop.code
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended), log.read_text().splitlines()


@on_linux
@pytest.mark.slow
def test_memory_stays_flat_over_300_000_updates_and_a_million_names(tmp_path):
    def peak(script, *args):
        """Megabytes after 5 seconds, and at the end."""
        command = [sys.executable, str(SCRIPTS / f"{script}.py"), *args]
        with subprocess.Popen(command, cwd=tmp_path, env=os.environ | PATHS, stdout=subprocess.DEVNULL) as process:
            seen = []
            while process.poll() is None:
                status = Path(f"/proc/{process.pid}/status").read_text()
                seen += [int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")]
                time.sleep(0.25)
            assert process.returncode == 0
        return seen

    unobserved = ("--observe.every_n_updates", "off")  # figures take 80 MB at the end
    training = peak("train", "--data.corpus", "sample", "--trainer.max_steps", "300000", *unobserved)
    compiled = training[len(training) // 3 :]
    assert max(compiled) < compiled[0] + 60
    sampling = peak("sample", "--ckpt_path", "runs/default/version_0", "--num", "1000000", "--batched")
    assert max(sampling[len(sampling) // 2 :]) < sampling[len(sampling) // 2] + 30


@pytest.mark.slow
def test_five_million_words_are_trained_on(tmp_path):
    letters = torch.randint(97, 123, (5_000_000, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    lines = torch.cat([letters, torch.full((len(letters), 1), 10, dtype=torch.uint8)], dim=1)
    (tmp_path / "words.txt").write_bytes(lines.numpy().tobytes())
    out = call("train", "--data.corpus", "words.txt", *SHORT, "--trainer.max_steps", "1000", cwd=tmp_path)
    assert "5,000,000 words" in out
