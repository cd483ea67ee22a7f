"""What several tests share."""

import atexit
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from ngram_mlp.callbacks import harmless
from ngram_mlp.cli import train
from ngram_mlp.places import SAMPLE_CORPUS

# Each deprecated call of jsonargparse tells its own message, so that pyproject.toml can name Lightning's.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "all"
ENVIRONMENT = dict(os.environ)
# The tests compare with loops on the CPU, in processes of their own, too.
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DISABLE_MPS": "1"}
# What one test compiles, the others load; the workers of a session have its folder from their parent.
if "MULTISTEP_CACHE_DIR" not in os.environ:
    os.environ["MULTISTEP_CACHE_DIR"] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, os.environ["MULTISTEP_CACHE_DIR"])
# A shell has what it starts in the background ignore Ctrl-C, and `nohup` SIGHUP.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Several workers share the cores: with more threads than cores, each waits for the others.
torch.set_num_threads(1)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A diagnosis that fails is to fail the test, too, instead of being switched off.
harmless.strict = True

PROJECT = Path(__file__).resolve().parents[1]
NAMES = PROJECT / "data" / "names.txt"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc or prlimit")


@pytest.fixture(scope="session")
def names() -> list[str]:
    """The notebooks' words."""
    if not NAMES.exists():
        pytest.skip("needs data/names.txt, which is not in git; python scripts/train.py downloads it")
    return NAMES.read_text().splitlines()


@pytest.fixture(scope="session")
def sample_words() -> list[str]:
    """The words that the project ships."""
    return SAMPLE_CORPUS.read_text(encoding="utf-8").split()


@pytest.fixture
def corpus_file(tmp_path: Path, sample_words: list[str]) -> Path:
    """A corpus of 300 words, quick to train on."""
    path = tmp_path / "words.txt"
    path.write_text("\n".join(sample_words[::63][:300]))
    return path


@pytest.fixture
def run_train(tmp_path, monkeypatch, corpus_file, capsys):
    """Runs `train.py` with a small corpus in an empty folder; returns the run's folder and what was printed.

    Without figures, which take half a second, unless the arguments ask for them.
    """
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[Path, str]:
        new = ["--data.corpus", str(corpus_file), "--observe.every_n_updates", "off"]
        given = [] if {"--resume", "last"} & {*args} else new
        train.main(PROJECT / "configs" / "default.yaml", [*given, *args])
        out = capsys.readouterr().out
        *_, folder = re.findall(r"^run     (.*), on ", out, flags=re.MULTILINE)
        return tmp_path / folder, out

    run.corpus = corpus_file
    return run


@pytest.fixture
def fails(capsys):
    """Calls a command and returns the one line with which it refuses, having checked that it is one, with status 2."""

    def call(function, *args) -> str:
        with pytest.raises(SystemExit) as stop:
            function(*args)
        lines = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0]

    return call
