"""Files that are complete or absent: a reader never sees half of one, and a kill or a full disk spares the old one."""

import os
import tempfile
from pathlib import Path

SUFFIX = ".part"


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
