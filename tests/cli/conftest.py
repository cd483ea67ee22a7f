"""Commands run inside the test's process, as from the shell."""

from pathlib import Path

import pytest

from ngram_mlp.cli import train
from tests.conftest import PROJECT


@pytest.fixture
def run_train(tmp_path, monkeypatch, corpus_file, capsys):
    """Runs `train.py` with a small corpus in an empty folder; returns the run's folder and what was printed."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[Path, str]:
        before = set(tmp_path.glob("runs/*/version_*"))
        train.main(PROJECT / "configs" / "default.yaml", ["--data.corpus", str(corpus_file), *args])
        (folder,) = set(tmp_path.glob("runs/*/version_*")) - before
        return folder, capsys.readouterr().out

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
