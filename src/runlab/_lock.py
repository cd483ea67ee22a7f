"""Locks a folder against other processes of this machine and of others that share its file system."""

import json
import logging
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from runlab._errors import UserError, printable

log = logging.getLogger(__name__)

LOCK, HOLDER = ".lock", ".locked_by.json"


class Occupied(UserError):
    """Another process has locked the folder."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    host: str
    process: int

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Locks a folder until the block is left or the process dies.

    The operating system releases the lock of a killed process. Whether a lock holds across machines depends on the
    file system (on NFS 4 it does, on Lustre only if mounted with `flock`), so a record left by another machine is
    logged as a note.

    Raises:
        Occupied: another process has locked it.
        UserError: the file system cannot lock, or the folder is not writable.
    """
    lock = FileLock(folder / LOCK)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without `flock` the existence of a file is the lock: as good here
            lock.acquire(blocking=False)
    except Timeout as error:
        whose = _holder(folder) or "another process"
        raise Occupied(f"{whose} is training in {folder}; wait for it or stop it") from error
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = "give a writable runs_dir on a file system that supports locks"
        raise UserError(f"{folder} cannot be locked ({reason}); {remedy}") from error
    try:
        own, before = Holder(platform.node(), os.getpid()), _holder(folder)
        if before is not None and before.host != own.host:
            log.info("note: %s may still be training in %s; if so, stop one of the two", before, folder)
        with suppress(OSError):  # the record only informs people
            (folder / HOLDER).write_text(json.dumps(asdict(own)) + "\n", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink()
        lock.release()


def _holder(folder: Path) -> Holder | None:
    """Returns the recorded holder of a folder; None if there is no readable record."""
    try:
        content = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return Holder(printable(str(content["host"])), int(content["process"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
