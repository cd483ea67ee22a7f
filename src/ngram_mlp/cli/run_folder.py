"""A folder for each run, which no other run writes to, and which goes back to a checkpoint."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ngram_mlp.callbacks.checkpoints import event_files
from ngram_mlp.durable import remove_leftovers, write_atomically
from ngram_mlp.errors import UserError

__all__ = ["alone_in", "claim_run_folder", "rewind", "versions"]


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


def rewind(folder: Path, checkpoint: dict[str, Any], configuration: str) -> None:
    """Brings a run's folder to the state of a checkpoint; a config.yaml that was in force until then is kept.

    Args:
        folder: the run's.
        checkpoint: the one that it goes on from.
        configuration: the content of the config.yaml with which it goes on.
    """
    remove_leftovers(folder)
    for path in event_files(folder):  # what was logged after the checkpoint is logged again
        if path.name not in checkpoint["events"]:
            path.unlink()
        elif path.stat().st_size > (size := checkpoint["events"][path.name]):
            os.truncate(path, size)
    if any(f".{int(time.time())}." in path.name for path in event_files(folder)):
        time.sleep(1)  # TensorBoard reads files in the order of their names, which tell the second of their birth
    before = (folder / "config.yaml").read_bytes()
    kept = folder / f"config-until-{checkpoint['global_step']}.yaml"
    if before != configuration.encode() and not kept.exists():
        write_atomically(kept, before)
