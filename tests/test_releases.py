"""With a release of torch or Lightning that is not known, ordinary Lightning trains, by public interfaces alone."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ngram_mlp import releases
from ngram_mlp.cli import train
from ngram_mlp.training import loop
from tests.conftest import PROJECT

SOURCE = PROJECT / "src" / "ngram_mlp"
# What is imported where chunks are trained, and nowhere else.
OF_CHUNKS = ("training/chunks.py", "training/fused.py", "training/compiling/")
# What others read or call of torch's and Lightning's own, and why it does no harm where it is gone.
GUARDED = {
    ("callbacks/boards.py", "_get_file_writer"): "a figure that fails is one line",
    ("callbacks/hyperparameters.py", "_get_file_writer"): "a page that fails is one line",
    ("callbacks/checkpoints.py", "_checkpoint_connector"): "not asked for in a release that is not known",
    ("models/loading.py", "torch.utils._python_dispatch.TorchDispatchMode"): "documented, in spite of its name",
    ("training/counters.py", "_batches_that_stepped"): "not called in a release that is not known",
    ("training/engines.py", "_opt_called"): "written only",
    ("training/schedules.py", "_opt_called"): "written only",
    ("training/schedules.py", "_step_count"): "steps one by one in a release that is not known",
    ("training/optimizers.py", "_optimizer_step_pre_hooks"): "called for engines of chunks",
    ("training/optimizers.py", "_optimizer_step_post_hooks"): "called for engines of chunks",
    ("training/optimizers.py", "torch.optim.optimizer._global_optimizer_pre_hooks"): "called for engines of chunks",
    ("training/optimizers.py", "torch.optim.optimizer._global_optimizer_post_hooks"): "called for engines of chunks",
    ("training/updates.py", "_average_model"): "called for engines of chunks",
    ("training/updates.py", "_latest_update_step"): "called for engines of chunks",
}
# Of argparse, named tuples and Optuna, which are no matter of torch or Lightning.
OF_OTHERS = {"_actions", "_group_actions", "_replace", "_trial_id"}

PRETEND = """
import importlib.metadata, sys
real, pretended = importlib.metadata.version, {"torch": "2.99.0", "pytorch-lightning": "9.0.0"}
importlib.metadata.version = lambda name: pretended.get(name) or real(name)
from ngram_mlp.cli import train
from ngram_mlp.places import DEFAULT_CONFIG
for words in sys.argv[1].split("|"):
    train.main(DEFAULT_CONFIG, words.split())
forbidden = tuple(f"ngram_mlp.training.{name}" for name in ("chunks", "fused", "compiling"))
assert not [name for name in sys.modules if name.startswith(forbidden)]
"""


def test_an_unknown_release_trains_by_ordinary_lightning_with_the_same_bits_and_resumes(run_train, tmp_path):
    whole, _ = run_train(
        "--engine", "lightning", "--trainer.max_steps", "24", "--trainer.val_check_interval", "8"
    )
    short = f"--data.corpus {run_train.corpus} --observe.every_n_updates each --trainer.val_check_interval 8 --name new"
    first, then = f"{short} --trainer.max_steps 12", "--ckpt_path last --name new --trainer.max_steps 24"
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRETEND, f"{first}|{then}"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    line = "engine  lightning: torch 2.99.0 is not known here (2.13, 2.14, 2.15 are); that takes 3 times as"
    assert line in out.stdout
    assert "switched off" not in out.stdout
    assert np.array_equal(np.load(tmp_path / "runs/new/version_0/losses.npy"), np.load(whole / "losses.npy"))


@pytest.fixture
def unknown(monkeypatch):
    monkeypatch.setattr(loop, "unknown_release", lambda: "torch 2.99 is not known here (2.13 is)")


@pytest.mark.usefixtures("unknown")
def test_an_engine_that_is_asked_for_is_tried(run_train):
    _, out = run_train("--engine", "eager", "--trainer.max_steps", "5")
    assert "engine  eager: as asked, although torch 2.99 is not known here (2.13 is)" in out


@pytest.mark.usefixtures("unknown")
def test_an_engine_that_cannot_be_imported_is_one_line(run_train, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "ngram_mlp.training.chunks", None)
    arguments = ["--engine", "fused", "--trainer.max_steps", "5", "--data.corpus", str(run_train.corpus)]
    line = fails(train.main, PROJECT / "configs" / "default.yaml", arguments)
    assert line == "error: --engine fused: torch 2.99 is not known here (2.13 is); use auto or lightning"


@pytest.mark.parametrize(
    ("torch", "lightning", "unknown"),
    [
        ("2.13.0+cpu", "2.6.6", None),
        ("2.14.1", "2.6.9", None),
        ("2.16.0", "2.6.6", "torch 2.16.0 is not known here (2.13, 2.14, 2.15 are)"),
        ("2.14.1", "2.7.0", "pytorch-lightning 2.7.0 is not known here (2.6 is)"),
        ("2.1", "2.6.6", "torch 2.1 is not known here (2.13, 2.14, 2.15 are)"),
    ],
)
def test_releases_are_told_apart(torch, lightning, unknown, monkeypatch):
    monkeypatch.setattr(releases, "version", {"torch": torch, "pytorch-lightning": lightning}.__getitem__)
    assert releases.unknown_release.__wrapped__() == unknown


def test_the_project_file_names_the_same_releases():
    project = (PROJECT / "pyproject.toml").read_text()
    bounds = dict(re.findall(r'"([\w-]+)<([\d.]+)"', re.search(r"^known = .*$", project, flags=re.MULTILINE)[0]))
    for name, known in releases.KNOWN.items():
        major, minor = known[-1].split(".")
        assert bounds[name] == f"{major}.{int(minor) + 1}"
        assert re.search(rf'^    "{name}>={re.escape(known[0])}\b', project, flags=re.MULTILINE)


def private_names(path: Path) -> set[str]:
    """What a file reads, writes or imports that is private to another package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("ngram_mlp"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if any(part[0] == "_" != part[1] for part in name.split(".") if len(part) > 1)}


def own_names() -> set[str]:
    """The private names that this package gives itself."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found |= {node.attr} if isinstance(node.value, ast.Name) and node.value.id == "self" else set()
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_what_is_private_to_torch_and_lightning_is_left_to_chunks_or_guarded():
    own, found = own_names(), set()
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith(OF_CHUNKS):
            found |= {(name, private) for private in private_names(path) - own - OF_OTHERS}
    assert found == GUARDED.keys()
