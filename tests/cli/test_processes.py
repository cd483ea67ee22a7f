"""The scripts as a user starts them."""

import runpy
import subprocess
import sys

import pytest

from tests.conftest import PROJECT


def start(*args, cwd):
    command = [sys.executable, str(PROJECT / "scripts" / args[0]), *args[1:]]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("script", sorted(path.name for path in (PROJECT / "scripts").glob("*.py")))
def test_every_script_has_a_help_with_defaults(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(PROJECT / "scripts" / script), run_name="__main__")
    out, err = capsys.readouterr()
    assert f"usage: {script}" in out
    assert "default: " in out
    assert err == ""


@pytest.mark.slow
def test_two_runs_at_once_get_two_folders(tmp_path, corpus_file):
    args = ("train.py", "--data.corpus", str(corpus_file), "--trainer.max_steps", "20")
    processes = [start(*args, cwd=tmp_path) for _ in range(2)]
    assert [process.communicate(timeout=120) and process.returncode for process in processes] == [0, 0]
    folders = sorted(path.name for path in (tmp_path / "runs" / "default").iterdir())
    assert folders == ["version_0", "version_1"]
    for folder in folders:
        assert (tmp_path / "runs" / "default" / folder / "metrics.json").exists()


@pytest.mark.slow
def test_the_benchmark_measures_every_peer(tmp_path, monkeypatch, capsys):
    from benchmarks import peers

    short = {name: (script, 2_000) for name, (script, _) in peers.PEERS.items()}
    monkeypatch.setattr(peers, "PEERS", short)
    output = tmp_path / "benchmark.json"
    monkeypatch.setattr(peers, "SIZES", peers.SIZES[:1])
    monkeypatch.setattr(peers, "WHOLE", (100,))
    monkeypatch.setattr(peers, "STUDIES", ((2, 100),))
    monkeypatch.setattr(peers, "BY", dict.fromkeys(peers.BY, 2_000))
    monkeypatch.setattr(peers, "FOREIGN", peers.FOREIGN[:1])
    monkeypatch.setattr(peers, "VARIANTS", peers.VARIANTS[:2])
    rounds = ("--repetitions", "--whole", "--studies", "--loaded", "--growth", "--foreign", "--variants", "--observing")
    peers.main([*(word for option in rounds for word in (option, "1")), "--output", str(output)])
    assert "ours, fused" in capsys.readouterr().out
    assert '"notebook loop"' in output.read_text()
