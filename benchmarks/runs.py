"""Runs peers: Python scripts, each in its own process and environment."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
SCRIPTS = FOLDER.parent / "scripts"
JAX = Path(".venv-jax", "bin", "python")  # made by `make bench`


def jax_python() -> str | None:
    """Returns the interpreter of the environment with jax; None if there is none."""
    return str(FOLDER.parent / JAX) if (FOLDER.parent / JAX).exists() else None


def run(script: Path, *arguments: object, cache: str, python: str | None = sys.executable) -> tuple[str, float]:
    """Returns what a script printed, and the seconds that its process took; raises a RuntimeError if it failed.

    Args:
        script: the file.
        arguments: the script's arguments.
        cache: the folder for compiled updates.
        python: the interpreter.
    """
    started = time.time()
    environment = os.environ | {
        "MULTISTEP_CACHE_DIR": cache,
        "BENCHMARK_STARTED": str(started),
        "PYTHONWARNINGS": "ignore",
    }
    command = [str(python), str(script), *map(str, arguments)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{process.stderr}")
    return process.stdout, time.time() - started


def figures(*arguments: Any, **options: Any) -> dict[str, Any]:
    """Returns the JSON that a script printed in its last line."""
    found: dict[str, Any] = json.loads(run(*arguments, **options)[0].splitlines()[-1])
    return found


def rows(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
    """Returns the JSON objects that a script printed, one per line."""
    return [json.loads(line) for line in run(*arguments, **options)[0].splitlines() if line.startswith("{")]


def train(folder: str, updates: int, cache: str, *options: str) -> float:
    """Returns the seconds of `scripts/train.py`, from start to exit."""
    where = ("--runs_dir", folder, "--trainer.max_steps", updates, "--trainer.accelerator", "cpu")
    return run(SCRIPTS / "train.py", *where, *options, cache=cache)[1]


def study(seeds: int, updates: int, cache: str) -> float:
    """Returns the seconds of `scripts/compare.py` with the default recipe, report included."""
    with tempfile.TemporaryDirectory() as folder:
        recipe, where = SCRIPTS.parent / "configs" / "default.yaml", ("--seeds", seeds, "--runs_dir", folder)
        length = ("--trainer.max_steps", updates, "--trainer.accelerator", "cpu")
        return run(SCRIPTS / "compare.py", recipe, *where, *length, cache=cache)[1]
