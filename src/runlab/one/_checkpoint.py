"""The checkpoint of a run: what it holds, how it is written, and how it is read: as data, never as code.

Lightning saves weights, optimizer, schedule, the states of callbacks and data, and the model's hyperparameters under
keys of its own. What this package adds lies under one key, `runlab`, with the number of the schema.
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
# What torch would call in a checkpoint with a size.
GROWING = {"bytearray", "Tensor", "UntypedStorage", "TypedStorage", *(kind.__name__ for kind in torch._tensor_classes)}


class Parts(TypedDict, total=False):
    """What a model adds to a checkpoint (the first) and `RunCheckpoints` (the rest)."""

    model: str  # the name of its class
    configuration: str  # of the run, as JSON
    events: dict[str, int]  # the length of each TensorBoard file, in bytes


def add_parts(content: dict[str, Any], parts: Parts) -> None:
    """Adds parts to the content of a checkpoint that is about to be saved."""
    content.setdefault(KEY, {"schema": SCHEMA}).update(parts)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: data that nobody has vouched for beyond what `read_checkpoint` checks."""

    path: Path
    content: dict[str, Any]  # everything in it, as Lightning restores it; the rest are views of it
    parts: Parts
    model: str  # the name of its class
    hyperparameters: dict[str, Any]  # the arguments of its constructor, but for optimizer and schedule
    weights: dict[str, Tensor]  # parameters and buffers by name
    update: int  # how many updates were done

    def error(self, reason: str) -> UserError:
        """Returns a UserError about this checkpoint."""
        return UserError(reason, ckpt_path=self.path)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Returns a checkpoint that this version saved, read as data; of a run's folder, the last one.

    Raises a UserError for anything else.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UserError(f"{REMEDY}, by its path", ckpt_path=type(path).__name__)
    path = checkpoint_file(path)
    content = load_checkpoint_file(path)
    _require(path, content, {"global_step": int, "hyper_parameters": dict, "state_dict": dict})
    parts = content.get(KEY, {"schema": 0})
    _require(path, parts, {"schema": int})
    if parts["schema"] != SCHEMA:
        reason = "was saved by another version, or by Lightning alone, and this version does not read it"
        raise UserError(f"{reason}; check that version out to use it, or train again", ckpt_path=path)
    _require(path, parts, {"model": str})
    hyperparameters, weights = content["hyper_parameters"], content["state_dict"]
    parts = cast(Parts, parts)
    return Checkpoint(Path(path), content, parts, parts["model"], hyperparameters, weights, content["global_step"])


def _require(path: str | Path, content: Any, kinds: Mapping[str, type]) -> None:
    """Raises a UserError unless the content is a dictionary with these kinds of values."""
    for key, kind in kinds.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            reason = f"is damaged or not a checkpoint of a run: {key} is absent or of the wrong kind; {REMEDY}"
            raise UserError(reason, ckpt_path=path)


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
        _require_plain_archive(Path(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything in zipfile and in torch
        reason = getattr(error, "strerror", None) or "it is not a checkpoint, or damaged"
        raise UserError(f"cannot be read ({reason}); {REMEDY}", ckpt_path=path) from error


def _require_plain_archive(path: Path) -> None:
    """Raises a ValueError unless a file is the very archive that torch will read, and takes no more memory than it has.

    With something before the archive, or two directories in it, zipfile and torch would read other parts.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if archive.testzip() is not None:  # torch itself does not compare the checksums
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
    """Whether an archive's directory lies right before its end record, as the record has it."""
    end = file.seek(-22, os.SEEK_END)  # without a comment
    signature, _, _, _, _, size, offset, _ = struct.unpack("<4s4H2LH", file.read(22))
    if signature != b"PK\x05\x06":
        return False
    if end >= 76:  # of a large archive, and of all of torch's, another record and where it is stand before
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
    """How a trainer saves and loads checkpoints; `checked`, if given, is loaded in place of the file."""

    def __init__(self, checked: Checkpoint | None = None) -> None:
        self._checked = checked

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), serialized(checkpoint))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        checked, self._checked = self._checked, None
        content = (checked or read_checkpoint(path)).content
        # Lightning would change the content according to the version that the file claims to be of.
        return content | {"pytorch-lightning_version": version("pytorch-lightning")}
