"""How the running command is typed, for its usage and for the commands that it suggests."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def called() -> list[str]:
    """The words before the arguments: of a script the interpreter and its path, else the installed program's."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py":
        return [str(from_here(Path(sys.executable))), "-m", script.parent.name, *sys.argv[1:2]]
    if script.suffix == ".py":
        return [str(from_here(Path(sys.executable))), sys.argv[0]]
    return [str(program(script.stem)), *sys.argv[1:2]]


def usage() -> str:
    """The command in a usage line."""
    words = called()
    return Path(words[-1]).name if words[-1].endswith(".py") else " ".join([Path(words[0]).stem, *words[1:]])


def as_typed(words: Sequence[str]) -> str:
    """Words as the shell takes them."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def program(name: str) -> Path | str:
    """A program of this environment, as it is typed here."""
    return name if shutil.which(name) else from_here(Path(sys.executable).with_name(name))


def from_here(path: Path) -> Path:
    """The path as it is typed in this folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
