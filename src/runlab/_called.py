"""Finds out how the running command was typed, for usage lines and suggested commands."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def called() -> list[str]:
    """Returns the words typed before the arguments: interpreter and script, or program (or module) and subcommand."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py":
        return [str(from_here(Path(sys.executable))), "-m", script.parent.name, *sys.argv[1:2]]
    if script.suffix == ".py":
        return [str(from_here(Path(sys.executable))), sys.argv[0]]
    return [str(program(script.stem)), *sys.argv[1:2]]


def usage() -> str:
    """Returns the command as a usage line shows it."""
    words = called()
    return Path(words[-1]).name if words[-1].endswith(".py") else " ".join([Path(words[0]).stem, *words[1:]])


def as_typed(words: Sequence[str]) -> str:
    """Returns the words joined and quoted for the shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def program(name: str) -> Path | str:
    """Returns what to type to run a program of this environment: its name if it is on the PATH, else its path."""
    return name if shutil.which(name) else from_here(Path(sys.executable).with_name(name))


def from_here(path: Path) -> Path:
    """Returns the path, relative to the current folder if it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
