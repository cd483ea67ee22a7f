"""Keeps compiled updates on disk, so that the next run with the same update starts at once."""

import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from multistep.compiled.program import BufferView, Call, Plan, Program

PLAN = "plan.pt"
SOURCES = Path(__file__).resolve().parents[1]


def folder() -> Path:
    """Returns the cache directory: `MULTISTEP_CACHE_DIR`, or one in the user's cache, with symbolic links resolved."""
    if own := os.environ.get("MULTISTEP_CACHE_DIR"):
        return Path(own).resolve()
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home, as in a container
        caches = Path(tempfile.gettempdir())
    return (caches / "multistep").resolve()


def key_of(described: Any) -> str:
    """Returns the key under which the code of an update is kept.

    It depends on the description, on this package's sources, on torch's build, on the processor and on the precision.
    """
    surroundings = {
        "torch": (torch.__version__, torch.version.git_version),
        "processor": (platform.machine(), torch.backends.cpu.get_cpu_capability(), _instructions()),
        "precision": (
            str(torch.get_default_dtype()),
            torch.is_autocast_enabled("cpu") and str(torch.get_autocast_dtype("cpu")),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
        ),
        "sources": [path.read_text(encoding="utf-8") for path in sorted(SOURCES.rglob("*.py"))],
    }
    return hashlib.sha256(json.dumps([described, surroundings], default=str).encode()).hexdigest()[:32]


def load(key: str) -> Program | None:
    """Returns the program kept under a key, or None if there is none that can be trusted."""
    place = folder() / key
    if not (is_private(place.parent) and is_private(place)):
        return None
    try:
        with torch.serialization.safe_globals([Plan, BufferView, Call]):
            content = torch.load(place / PLAN, weights_only=True)
        code = place / _name_of(content["sha256"])
        return Program(code, content["plan"]) if content["sha256"] == _digest(code) else None
    except Exception:  # truncated, or written by another version
        return None


def save(key: str, code: Path, plan: Plan) -> Exception | None:
    """Keeps a library and its plan; returns the exception that prevented it, or None."""
    try:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_private(folder()):
            raise PermissionError(f"other users can access {folder()}")
        with tempfile.TemporaryDirectory(dir=folder(), ignore_cleanup_errors=True) as temporary:
            new = Path(temporary) / key
            new.mkdir(mode=0o700)
            digest = _digest(code)
            shutil.copy(code, new / _name_of(digest))
            torch.save({"plan": plan, "sha256": digest}, new / PLAN)
            shutil.rmtree(folder() / key, ignore_errors=True)
            new.rename(folder() / key)
    except Exception as error:  # from the file system, or an argument that torch.save cannot handle
        return error
    return None


def is_private(path: Path) -> bool:
    """True if only this user can access the directory. Cached libraries are executable code."""
    try:
        found = path.lstat()
    except OSError:
        return False
    if not hasattr(os, "getuid"):  # Windows has no such owners and modes
        return stat.S_ISDIR(found.st_mode)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _name_of(digest: str) -> str:
    """Returns a library's name, which is unique: a process would reuse a library it loaded under the same name."""
    return f"{digest[:16]}.so"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _instructions() -> str:
    """Returns the instruction sets of the processor, as the operating system lists them."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return platform.processor()
