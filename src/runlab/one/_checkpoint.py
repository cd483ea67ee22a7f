"""Writes the checkpoints of runs, and reads them as data, never as code.

Lightning saves weights, optimizer, schedule, the states of callbacks and data, and the model's hyperparameters under
its own keys. This package adds one key, `runlab`, which includes the schema number.
"""

import io
import os
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, cast

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from torch import Tensor

from runlab._errors import UserError
from runlab._files import checkpoint_file, write_atomically

SCHEMA = 1
KEY = "runlab"
REMEDY = "give a .ckpt file of a run"
# Names that a checkpoint could make torch call with a size.
GROWING = {"bytearray", "Tensor", "UntypedStorage", "TypedStorage", *(kind.__name__ for kind in torch._tensor_classes)}


class Parts(TypedDict, total=False):
    """What a model (the first item) and `RunCheckpoints` (all) add to a checkpoint."""

    model: str  # the name of its class
    configuration: str  # the run's, as JSON
    events: dict[str, int]  # the length of each TensorBoard file, in bytes


def add_parts(content: dict[str, Any], parts: Parts) -> None:
    """Adds parts to the content of a checkpoint before it is saved."""
    content.setdefault(KEY, {"schema": SCHEMA}).update(parts)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: its data are untrusted beyond the checks of `read_checkpoint`."""

    path: Path
    content: dict[str, Any]  # all of it, as Lightning restores it; the fields below are views of it
    parts: Parts
    model: str  # the name of its class
    hyperparameters: dict[str, Any]  # the constructor's arguments, except optimizer and schedule
    weights: dict[str, Tensor]  # parameters and buffers by name
    update: int  # the number of updates done

    def error(self, reason: str) -> UserError:
        """Returns a UserError about this checkpoint."""
        return UserError(reason, ckpt_path=self.path)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Returns a checkpoint saved by this version, or the last one of a run's folder, read as data.

    Raises a UserError for anything else.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UserError("give the path of a .ckpt file of a run", ckpt_path=type(path).__name__)
    path = checkpoint_file(path)
    content = load_checkpoint_file(path)
    _require(path, content, {"global_step": int, "hyper_parameters": dict, "state_dict": dict})
    parts = content.get(KEY, {"schema": 0})
    _require(path, parts, {"schema": int})
    if parts["schema"] != SCHEMA:
        reason = "was saved by another version or by plain Lightning, and cannot be read by this one"
        raise UserError(f"{reason}; check out that version, or train again", ckpt_path=path)
    _require(path, parts, {"model": str})
    hyperparameters, weights = content["hyper_parameters"], content["state_dict"]
    parts = cast(Parts, parts)
    return Checkpoint(Path(path), content, parts, parts["model"], hyperparameters, weights, content["global_step"])


def _require(path: str | Path, content: Any, kinds: Mapping[str, type]) -> None:
    """Raises a UserError unless the content is a dictionary with values of these types."""
    for key, kind in kinds.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            reason = f"is damaged or not a checkpoint of a run: {key} is missing or has the wrong type; {REMEDY}"
            raise UserError(reason, ckpt_path=path)


def serialized(content: dict[str, Any]) -> bytes:
    """Returns the bytes of a checkpoint file, made in memory because torch reports a full disk as another error."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_checkpoint_file(path: str | Path) -> Any:
    """Returns what torch saved in a file, with tensors on the CPU; raises a UserError if it cannot be read.

    Imports and runs nothing that the file names.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise UserError(f"is not a regular file; {REMEDY}", ckpt_path=path)
    try:
        _require_plain_archive(Path(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything in zipfile and in torch
        reason = getattr(error, "strerror", None) or "it is damaged or not a checkpoint"
        raise UserError(f"cannot be read ({reason}); {REMEDY}", ckpt_path=path) from error


def _require_plain_archive(path: Path) -> None:
    """Raises a ValueError unless torch will read the archive checked here and need no more memory than the file's size.

    With data before the archive, or two directories in it, zipfile and torch would read different parts.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if archive.testzip() is not None:  # torch does not compare the checksums
            raise ValueError("a checksum differs")
        if any(part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size for part in parts):
            raise ValueError("a part is compressed")
        pickled = [archive.read(part) for part in parts if part.filename.endswith(".pkl")]
        file.seek(0)
        content = file.read(4)
        if content != b"PK\x03\x04" or not _has_one_directory(file):
            raise ValueError("it is not an archive from its beginning to its end")
    for opcode, argument, _ in (operation for one in pickled for operation in pickletools.genops(one)):
        if opcode.name == "GLOBAL" and str(argument).split(" ")[-1] in GROWING:
            raise ValueError(f"{argument} makes memory of any size out of a number")


def _has_one_directory(file: BinaryIO) -> bool:
    """Returns whether an archive's directory lies right before its end record, where the record locates it."""
    end = file.seek(-22, os.SEEK_END)  # without a comment
    signature, _, _, _, _, size, offset, _ = struct.unpack("<4s4H2LH", file.read(22))
    if signature != b"PK\x05\x06":
        return False
    if end >= 76:  # large archives, and all of torch's, have a ZIP64 record and its locator before it
        file.seek(end - 76)
        large, where = struct.unpack("<4s36x2Q", file.read(56)), struct.unpack("<4s4xQ4x", file.read(20))
        if where[0] == b"PK\x06\x07":
            end -= 76
            numbers = zip((size, offset), large[1:], strict=True)
            if large[0] != b"PK\x06\x06" or where[1] != end or any(one not in (two, 2**32 - 1) for one, two in numbers):
                return False
            size, offset = large[1:]
    return bool(offset + size == end)


class CheckpointFiles(TorchCheckpointIO):
    """Saves and loads the checkpoints of a trainer; `checked`, if given, is used instead of the first file."""

    def __init__(self, checked: Checkpoint | None = None) -> None:
        self._checked = checked

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), serialized(checkpoint))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        checked, self._checked = self._checked, None
        content = (checked or read_checkpoint(path)).content
        # Otherwise Lightning would migrate the content from the version that the file claims.
        return content | {"pytorch-lightning_version": version("pytorch-lightning")}
