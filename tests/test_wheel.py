"""The package as a wheel, installed where no checkout is: it trains, with its own corpus and default configuration."""

import os
import shutil
import subprocess
import sys

import pytest

from ngram_mlp.__main__ import COMMANDS
from runlab import _called as called
from tests.conftest import PROJECT

PYTHON = os.path.basename(sys.executable)
PACKAGES = ("multistep", "ngram_mlp", "runlab")
BUILT_FROM = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "configs", "src")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the unpacked wheel, which is built from a copy of the project."""
    copy, target = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("installed")
    for name in BUILT_FROM:
        source, leave_out = PROJECT / name, shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, copy / name, ignore=leave_out) if source.is_dir() else shutil.copy(source, copy)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *options, "--wheel-dir", str(copy), str(copy)], check=True, capture_output=True)
    (wheel,) = copy.glob("*.whl")
    subprocess.run([*pip, "install", *options, "--target", str(target), str(wheel)], check=True, capture_output=True)
    return target


@pytest.fixture
def call(installed, tmp_path):
    """Calls the installed command in an empty folder; returns what it printed."""

    def call(*words: str, status: int = 0) -> str:
        environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(installed / "bin" / "ngram-mlp"), *words]
        out = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert out.returncode == status, out.stderr
        return out.stdout + out.stderr

    return call


def test_the_installed_command_trains_resumes_and_samples(call, tmp_path):
    short = ("--data.corpus", "sample", "--observe.every_n_updates", "off", "--trainer.max_steps", "20")
    assert "corpus  sample, 19" in call("train", *short)
    assert "model.class_path" not in call("train", "--ckpt_path", "last", "--trainer.max_steps", "30")
    assert (tmp_path / "runs" / "default" / "version_0" / "metrics.json").exists()
    assert len(call("sample", "--ckpt_path", "runs/default/version_0", "--num", "3").splitlines()) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.slow
def test_the_installed_command_compares(call, tmp_path):
    for width in (8, 16):
        (tmp_path / f"width_{width}.yaml").write_text(f"model: {{init_args: {{n_hidden: {width}}}}}\n")
    short = ("--seeds", "1", "--data.corpus", "sample", "--trainer.max_steps", "5")
    assert "width_16" in call("compare", "width_8.yaml", "width_16.yaml", *short)
    (report,) = tmp_path.glob("runs/compare/width_8-vs-width_16/report.md")
    assert "ngram-mlp compare width_8.yaml width_16.yaml" in report.read_text()


@pytest.mark.slow
def test_the_installed_command_says_what_it_can_do(call):
    listed = call("--help")
    assert all(f"\n  {name} " in listed for name in COMMANDS)
    line = call("trian", status=2)
    assert line == f"error: trian is not a command; choose one of {', '.join(COMMANDS)}\n"


def test_what_comes_with_the_package_is_in_the_wheel(installed):
    package = installed / "ngram_mlp"
    assert (package / "default.yaml").read_bytes() == (PROJECT / "configs" / "default.yaml").read_bytes()
    for package in PACKAGES:
        kept = {path.relative_to(PROJECT / "src") for path in (PROJECT / "src" / package).rglob("*.py")}
        assert kept == {path.relative_to(installed) for path in (installed / package).rglob("*.py")}
        assert (installed / package / "py.typed").exists()


@pytest.mark.parametrize(
    ("argv", "words", "usage"),
    [
        (["scripts/train.py", "--name", "a"], ["scripts/train.py"], "train.py"),
        (["/somewhere/bin/ngram-mlp", "train", "--name", "a"], ["ngram-mlp", "train"], "ngram-mlp train"),
        (
            ["/somewhere/ngram_mlp/__main__.py", "sample"],
            ["-m", "ngram_mlp", "sample"],
            f"{PYTHON} -m ngram_mlp sample",
        ),
        (["ngram-mlp.exe", "check"], ["ngram-mlp", "check"], "ngram-mlp check"),  # on Windows
    ],
)
def test_a_command_knows_how_it_is_typed(argv, words, usage, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    found = called.called()
    assert [os.path.basename(found[0]), *found[1:]][-len(words) :] == words
    assert called.usage() == usage
