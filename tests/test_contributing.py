"""The examples of CONTRIBUTING.md work as they stand there, in a copy of the project."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import PROJECT

TEXT = (PROJECT / "CONTRIBUTING.md").read_text()
COMMANDS = re.findall(r"^python (scripts/.*)$", TEXT, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    """A copy of the project with the files that the text shows."""
    fork = tmp_path_factory.mktemp("fork")
    for folder in ("src", "configs", "scripts", "data"):
        shutil.copytree(PROJECT / folder, fork / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    files = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", TEXT, flags=re.DOTALL)
    for name, content in files:
        assert not (fork / name).exists()
        (fork / name).write_text(content)
    assert len(files) == 3
    return fork


def call(fork, *commands: str) -> str:
    """Calls commands as they are typed in the fork, in one process; returns what they printed."""
    calls = [
        f"sys.argv[:] = {shlex.split(command)}; runpy.run_path(sys.argv[0], {{}}, '__main__')" for command in commands
    ]
    process = subprocess.run(
        [sys.executable, "-c", "\n".join(["import runpy, sys", *calls])],
        cwd=fork,
        env=os.environ | {"PYTHONPATH": str(fork / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


def test_the_variant_is_checked_memorizes_trains_and_samples_and_the_callback_reports_ranks(fork):
    check, overfit, train, sample = [command for command in COMMANDS if "bag_of_characters" in command]
    (observe,) = [command for command in COMMANDS if "effective_rank" in command]
    sampled = "--data.corpus sample"
    out = call(
        fork,
        f"{check} {sampled}",
        f"{overfit} --trainer.max_steps 300",
        f"{observe} {sampled} --trainer.max_steps 201 --name ranks",
        f"{train} {sampled} --trainer.max_steps 30 --engine fused",
        sample,
    )
    assert "first loss" in out
    losses = np.load(fork / "runs" / "debug_overfit" / "version_0" / "losses.npy")
    assert losses[-50:].mean() < losses[0] - 0.5
    assert "BagOfCharacters, 5,427 parameters" in out
    assert "fused: compiled" in out
    assert len(out.partition("--logdir runs/bag_of_characters")[2].splitlines()[1:]) == 20
    events = EventAccumulator(str(fork / "runs" / "ranks" / "version_0")).Reload()
    ranks = [event.value for event in events.Scalars("within_hidden1/effective_rank")]
    assert len(ranks) == 3  # at updates 0, 100 and 200
    assert all(1 < rank < 32 for rank in ranks)


@pytest.mark.parametrize("rule", ["check", "format --check"])
def test_the_examples_keep_the_rules(rule, fork):
    files = [str(path) for path in fork.rglob("*.py") if path.stem in ("bag_of_characters", "effective_rank")]
    assert len(files) == 2
    arguments = [*rule.split(), "--config", str(PROJECT / "pyproject.toml"), *files]
    process = subprocess.run([sys.executable, "-m", "ruff", *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout
