"""The main job where nothing is there that Windows lacks.

What only POSIX systems have is hidden from this package, which trains, resumes, samples and compares. That cannot show
what Windows does in another way; `.github/workflows` runs it there.
"""

import os
import subprocess
import sys

import pytest

from tests.conftest import PROJECT

HIDE = """
import builtins, os, signal, sys, types

ABSENT = {"fcntl", "grp", "pwd", "resource", "termios"}
LACK = {
    "os": {"fork", "getuid", "geteuid", "mkfifo", "sched_getaffinity", "setsid", "killpg", "O_NONBLOCK", "O_DIRECTORY"},
    "signal": {"SIGHUP", "SIGKILL", "SIGUSR1", "pause", "pthread_kill"},
    "sys": set(),
}

def lacking(name):
    module, seen = sys.modules[name], types.ModuleType(name)
    vars(seen).update({key: value for key, value in vars(module).items() if key not in LACK[name]})
    return seen

def open_no_folder(path, *args, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return os.open(path, *args, **options)

seen = {name: lacking(name) for name in LACK}
seen["os"].open, seen["sys"].platform = open_no_folder, "win32"
really = builtins.__import__

def importing(name, globals=None, *args, **options):
    if not str((globals or {}).get("__name__")).startswith("ngram_mlp"):
        return really(name, globals, *args, **options)
    if name in ABSENT:
        raise ModuleNotFoundError(f"No module named {name!r}")
    return seen.get(name) or really(name, globals, *args, **options)

builtins.__import__ = importing
"""
MAIN_JOB = """
if __name__ == "__main__":
    from ngram_mlp.cli import check, evaluate, sample, train
    from ngram_mlp.places import DEFAULT_CONFIG
    short = ["--data.corpus", "sample", "--trainer.max_steps", "40"]
    train.main(DEFAULT_CONFIG, [*short, "--engine", "fused"])
    train.main(DEFAULT_CONFIG, ["--ckpt_path", "last", "--trainer.max_steps", "60"])
    check.main(DEFAULT_CONFIG, short)
    evaluate.main(["--ckpt_path", "runs/default/version_0"])
    sample.main(["--ckpt_path", "runs/default/version_0", "--num", "3"])
"""
COMPARE = """
if __name__ == "__main__":
    from pathlib import Path
    from ngram_mlp.cli import compare
    Path("a.yaml").write_text("name: a")
    short = ["--data.corpus", "sample", "--trainer.max_steps", "40"]
    compare.main(["a.yaml", "--seeds", "1", "--jobs", "1", *short])
"""


def call(job, folder):
    (folder / "job.py").write_text(f"import hiding\n{job}")
    installed = folder / "site-packages"  # code of whoever trains would be followed by the engine
    installed.mkdir()
    (installed / "hiding.py").write_text(HIDE)
    out = subprocess.run(
        [sys.executable, "job.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{PROJECT / 'src'}{os.pathsep}{installed}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    return out.stdout


@pytest.mark.slow
def test_the_main_job_needs_nothing_that_windows_lacks(tmp_path):
    assert "trained to update 60" in call(MAIN_JOB, tmp_path)
    for name in ("losses.npy", "metrics.json", "samples.txt", "figures/loss.png"):
        assert (tmp_path / "runs" / "default" / "version_0" / name).exists()


@pytest.mark.slow
def test_a_study_needs_nothing_that_windows_lacks(tmp_path):
    call(COMPARE, tmp_path)
    assert (tmp_path / "runs" / "compare" / "a" / "report.md").exists()
