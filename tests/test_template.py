"""What holds of the template alone, and goes when it is adopted: that it can be, and what its README is like."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.test_readme import DOCUMENTS

OWN = (".git", ".venv", ".venv-jax", ".whl", "runs", "build", "dist", ".hypothesis")
QUICK = ("tests/test_architecture.py", "tests/models/layers")
CACHES = shutil.ignore_patterns("*_cache", "__pycache__", "*.egg-info")


def adopted(folder: Path, *options: str) -> Path:
    """A copy of the project, which its own script has adopted."""
    fork = folder / "fork"
    for path in PROJECT.iterdir():
        if path.is_dir() and path.name not in OWN and not path.name.endswith("_cache"):
            shutil.copytree(path, fork / path.name, ignore=CACHES)
        elif path.is_file():
            fork.mkdir(exist_ok=True)
            shutil.copy(path, fork)
    (fork / ".coverage").write_bytes(b"\xff\xfe\x00")  # as a tool may have left one
    command = [sys.executable, str(fork / "scripts" / "adopt.py"), *options]
    out = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return fork


def call(fork: Path, *words: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NGRAM_MLP")}
    environment |= {"PYTHONPATH": str(fork / "src"), "OMP_NUM_THREADS": "1"}
    out = subprocess.run(
        [sys.executable, "-m", *words], cwd=fork, env=environment, capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stdout + out.stderr


@pytest.mark.parametrize(
    ("name", "tests"),
    [
        pytest.param("a_project_with_long_name", QUICK, id="quick"),
        pytest.param("zebra", ("tests",), id="all of it", marks=pytest.mark.slow),
    ],
)
def test_a_project_is_made_of_it_that_lints_and_passes_its_tests(name, tests, tmp_path):
    fork = adopted(tmp_path, "--name", name, "--owner", "me")
    texts = {path: path.read_text() for path in fork.rglob("*") if path.suffix in (".py", ".md", ".toml", ".yaml")}
    left = [path for path, text in texts.items() if re.search("ngram.mlp", text, flags=re.IGNORECASE)]
    assert [path.name for path in left if path.name != "CHANGELOG.md"] == []  # it says what the project was begun from
    assert (fork / "src" / name / "models" / "mlp.py").exists()
    documents = {path.relative_to(fork).as_posix(): text for path, text in texts.items() if path.suffix == ".md"}
    named = [name for name, text in documents.items() if re.search(r"adopt\.py|test_template|CITATION", text)]
    assert named == []
    assert [name for name, text in documents.items() if "make adopt" in text] == ["CHANGELOG.md", "docs/installing.md"]
    assert "adopt" not in (fork / "Makefile").read_text()
    for rule in (["check", "--fix", "--exit-zero"], ["format"], ["check"]):  # the first two as `make adopt` does
        call(fork, "ruff", *rule, "--quiet", ".")
    if tests != QUICK:
        call(fork, "mypy")
    call(fork, f"{name}", "check", "--data.corpus", "sample")
    call(fork, "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["My-Project"], "error: NAME=My-Project: give a new package name of lowercase letters"),
        (["class"], "error: NAME=class: give a new package name"),
        (["runlab"], "error: NAME=runlab: give a new package name"),
        (["email"], "error: NAME=email: give a new package name"),
        (["n" * 30], "error: NAME=nnnnnnnnnnnnnnnnnnnnnnnnnnnnnn: give a name of at most 24 characters"),
    ],
)
def test_what_cannot_be_adopted_is_one_line_and_changes_nothing(options, line):
    command = [sys.executable, str(PROJECT / "scripts" / "adopt.py"), "--name", *options]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.returncode == 2
    assert out.stderr.startswith(line)
    assert len(out.stderr.splitlines()) == 1
    assert (PROJECT / "src" / "ngram_mlp").exists()


def test_nothing_that_is_not_committed_is_changed(tmp_path):
    fork = tmp_path / "fork"
    (fork / "scripts").mkdir(parents=True)
    shutil.copy(PROJECT / "scripts" / "adopt.py", fork / "scripts")
    subprocess.run(["git", "init", "-q", str(fork)], check=True)
    out = subprocess.run([sys.executable, "scripts/adopt.py", "--name", "a"], cwd=fork, capture_output=True, text=True)
    assert (out.returncode, len(out.stderr.splitlines())) == (2, 1)
    assert "there are uncommitted changes" in out.stderr


def test_the_readme_is_read_in_five_minutes():
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 160


def test_every_document_is_linked():
    linked = {PROJECT / "README.md", PROJECT / "data" / "README.md"}
    for document in DOCUMENTS:
        for target in re.findall(r"(?:\]\(|src=\")([^)#\"]+)", document.read_text()):
            linked.add((document.parent / target).resolve())
    assert {*DOCUMENTS} <= linked
