"""The bytes of a checkpoint: serialized in memory, and read back as data, never as code."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from runlab._errors import UserError

REMEDY = "give a .ckpt file of a run"


def serialized(content: dict[str, Any]) -> bytes:
    """Returns the bytes of a checkpoint file, made in memory: torch reports a full disk by another error."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_checkpoint_file(path: str | Path) -> Any:
    """Returns what torch saved in a file, with tensors on the CPU; raises a UserError where it cannot be read.

    Nothing that the file names is imported or run.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise UserError(f"is not a regular file; {REMEDY}", ckpt_path=path)
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch itself does not compare the checksums
                raise ValueError("a checksum differs")
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything in zipfile and in torch
        reason = getattr(error, "strerror", None) or "it is not a checkpoint, or damaged"
        raise UserError(f"cannot be read ({reason}); {REMEDY}", ckpt_path=path) from error
