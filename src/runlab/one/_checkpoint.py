"""The checkpoint of a run: what it holds, how it is written, and how it is read: as data, never as code.

Lightning saves weights, optimizer, schedule, the states of callbacks and data, and the model's hyperparameters under
keys of its own. What this package adds lies under one key, `runlab`, with the number of the schema.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from torch import Tensor

from runlab._errors import UserError
from runlab._files import checkpoint_file, write_atomically

SCHEMA = 1
KEY = "runlab"
REMEDY = "give a .ckpt file of a run"


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
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch itself does not compare the checksums
                raise ValueError("a checksum differs")
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything in zipfile and in torch
        reason = getattr(error, "strerror", None) or "it is not a checkpoint, or damaged"
        raise UserError(f"cannot be read ({reason}); {REMEDY}", ckpt_path=path) from error


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
