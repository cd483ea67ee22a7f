"""A folder for each run, which no other run writes to."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ngram_mlp.errors import UserError

__all__ = ["alone_in", "claim_run_folder", "versions"]


def versions(parent: Path) -> list[int]:
    """The numbers N of the folders `version_N`."""
    names = [path.name[8:] for path in parent.glob("version_*")]
    return [int(name) for name in names if name.isascii() and name.isdecimal()]


def claim_run_folder(runs_dir: str, name: str) -> Path:
    """Creates and returns `RUNS_DIR/NAME/version_N` with the least N above all there.

    Creating the folder is what claims it, so that two runs that start at once get two folders.

    Raises:
        UserError: the folder cannot be created.
    """
    parent = Path(runs_dir, name)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        version = max(versions(parent), default=-1) + 1
        while True:
            folder = parent / f"version_{version}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                version += 1
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(
            f"--runs_dir {runs_dir} --name {name}: cannot create a folder in {parent} "
            f"({getattr(error, 'strerror', None) or error}); give a folder that you may write to"
        ) from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lets no other process train in a run's folder, until this one leaves the block or dies.

    Raises:
        UserError: another process trains there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(f"--resume {folder}: another process trains in this folder; wait for it or end it") from error
    finally:
        os.close(descriptor)
