"""Files that are complete or absent, and the folder of a run: claimed, locked while it trains, rewound when it resumes."""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ngram_mlp.errors import UserError

SUFFIX = ".part"
LAST = Path("checkpoints", "last.ckpt")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a temporary file beside `path`, flushes it to the disk and renames it.

    Raises:
        OSError: the content could not be written; what was at `path` before is still there.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=SUFFIX)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    _flush_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of a process that was killed while it wrote below `folder`."""
    for path in folder.rglob(f".*{SUFFIX}"):
        path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Makes a rename survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def event_files(folder: Path) -> list[Path]:
    """TensorBoard's files of a run."""
    return list(folder.glob("events.out.tfevents.*"))


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
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot create a folder in {parent} ({reason}); give a folder that you may write to", runs_dir=runs_dir
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
        raise UserError(f"another process trains in {folder}; wait for it or end it") from error
    finally:
        os.close(descriptor)


def rewind(folder: Path, update: int, sizes: Mapping[str, int], configuration: str) -> None:
    """Takes a run's folder back to the state of a checkpoint; a config.yaml that was in force until then is kept.

    Args:
        folder: the run's.
        update: the checkpoint's.
        sizes: the lengths of TensorBoard's files then.
        configuration: the content of the config.yaml with which it resumes.
    """
    remove_leftovers(folder)
    for path in event_files(folder):  # what was logged after the checkpoint is logged again
        if path.name not in sizes:
            path.unlink()
        elif path.stat().st_size > sizes[path.name]:
            os.truncate(path, sizes[path.name])
    if any(f".{int(time.time())}." in path.name for path in event_files(folder)):
        time.sleep(1)  # TensorBoard reads files in the order of their names, which hold the second of their creation
    before = (folder / "config.yaml").read_bytes()
    kept = folder / f"config-until-{update}.yaml"
    if before != configuration.encode() and not kept.exists():
        write_atomically(kept, before)
