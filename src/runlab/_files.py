"""Writes files atomically, and claims, rewinds and removes the folders of runs."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from runlab._errors import UserError

SUFFIX = ".part"
LAST = Path("checkpoints", "last.ckpt")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a temporary file beside `path`, syncs it and renames it; if that fails, `path` stays as it was."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=SUFFIX)
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
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot open folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # so that the rename survives a power failure
        finally:
            os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files that a killed process left below `folder`."""
    for path in folder.rglob(f".*{SUFFIX}"):
        path.unlink(missing_ok=True)


def finished_at(folder: Path) -> int | None:
    """Returns how many updates a run's results are from; None if it has no results."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["updates"])
    return None


def event_files(folder: Path) -> list[Path]:
    """Returns the TensorBoard files of a run."""
    return list(folder.glob("events.out.tfevents.*"))


def versions(parent: Path) -> list[int]:
    """Returns the numbers N of the folders `version_N`."""
    numbers = [path.name.removeprefix("version_") for path in parent.glob("version_*")]
    return [int(number) for number in numbers if number.isascii() and number.isdecimal()]


def checkpoint_file(path: str | Path) -> Path:
    """Returns the path itself, or the last checkpoint in it if it is the folder of a run."""
    return Path(path) / LAST if Path(path).is_dir() else Path(path)


def claim_run_folder(runs_dir: str, name: str) -> Path:
    """Creates `RUNS_DIR/NAME/version_N`, N one above the largest there; raises a UserError if it cannot."""
    parent = within(runs_dir, name)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        version = max(versions(parent), default=-1)
        while True:
            version += 1
            folder = parent / f"version_{version}"
            with suppress(FileExistsError):
                folder.mkdir()  # claims it: a run that starts at the same time gets the next number
                return folder
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot create {parent}/version_N ({reason}); give another folder", runs_dir=runs_dir
        ) from error


def within(runs_dir: str | Path, *names: str) -> Path:
    """Returns `RUNS_DIR/NAME/...`; raises a UserError if a name is blank or leads out of the folder."""
    if any(Path(name).is_absolute() or ".." in Path(name).parts or not name.strip() for name in names):
        raise UserError("give the name or relative path of a folder inside runs_dir", name=names[-1])
    return Path(runs_dir, *names)


def remove_folder(folder: Path) -> None:
    """Removes the folder of a run that never began. Windows keeps the lock file that this process holds open."""
    shutil.rmtree(folder, ignore_errors=os.name == "nt")


def rewind(folder: Path, update: int, sizes: Mapping[str, int], configuration: str) -> Callable[[], None]:
    """Rewinds a run's folder to the state at `update`, when TensorBoard's files had these `sizes` in bytes.

    If config.yaml differs from `configuration`, with which the run resumes, copies it to `config-until-UPDATE.yaml`.
    Returns a function that restores the configuration, in case the run does not resume.
    """
    remove_leftovers(folder)
    for path in event_files(folder):  # events after the checkpoint will be logged again
        if path.name not in sizes:
            path.unlink()
        elif path.stat().st_size > sizes[path.name]:
            os.truncate(path, sizes[path.name])
    if any(f".{int(time.time())}." in path.name for path in event_files(folder)):
        time.sleep(1)  # TensorBoard reads files in order of name, and the name holds the second of creation
    before = (folder / "config.yaml").read_bytes()
    kept = folder / f"config-until-{update}.yaml"
    is_kept = before != configuration.encode() and not kept.exists()
    if is_kept:
        write_atomically(kept, before)

    def undo() -> None:
        write_atomically(folder / "config.yaml", before)
        if is_kept:
            kept.unlink()

    return undo
