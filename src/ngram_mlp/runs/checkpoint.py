"""What a checkpoint holds: whatever writes or reads a part of one does so through this file.

Lightning saves weights, optimizer, schedule, the states of callbacks and data, and the model's hyperparameters under
keys of its own. What this package adds lies under one key, `ngram_mlp`, with the number of the schema.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict, cast

from lightning_fabric.plugins import TorchCheckpointIO
from torch import Tensor

from runlab import REMEDY, UserError, checkpoint_file, load_checkpoint_file, serialized, write_atomically

SCHEMA = 3
SAVED_BY = {1: "0.1", 2: "0.2"}  # the versions of earlier schemas; the first had no number
KEY = "ngram_mlp"


class Parts(TypedDict, total=False):
    """What the model adds to a checkpoint (the first) and `RunCheckpoints`, in runs of `train.py` (the rest)."""

    model: str  # the name of its class
    configuration: str  # of the run, as JSON
    events: dict[str, int]  # the length of each TensorBoard file, in bytes


class StreamState(TypedDict):
    """The state of the data: where the minibatches stand, and in which corpus."""

    minibatches: dict[str, Any]  # as `Minibatches.state_dict` returns it
    default_generator: Tensor  # the state of torch's, which dropout and users' callbacks draw from
    corpus: dict[str, str | int]  # name, sha256 and number of words


def add_parts(content: dict[str, Any], parts: Parts) -> None:
    """Adds parts to the content of a checkpoint that is about to be saved."""
    content.setdefault(KEY, {"schema": SCHEMA}).update(parts)


def parts_of(content: Mapping[str, Any]) -> Parts:
    """The parts in the content of a checkpoint."""
    return cast(Parts, content[KEY])


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

    @property
    def stream(self) -> StreamState:
        """The state of the data; raises a UserError where it was data of another kind."""
        for value in self.content.values():
            if isinstance(value, dict) and StreamState.__required_keys__ <= value.keys():
                return cast(StreamState, value)  # under the name of the datamodule's class
        raise self.error("does not tell which corpus it was trained on; it was not saved by train.py")

    def error(self, reason: str) -> UserError:
        """A UserError about this checkpoint."""
        return UserError(reason, ckpt_path=self.path)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """A checkpoint that this version saved, read as data; of a run's folder, the last one.

    Raises a UserError for anything else.
    """
    path = checkpoint_file(path)
    content = load_checkpoint_file(path)
    _require(path, content, {"global_step": int, "hyper_parameters": dict, "state_dict": dict})
    parts = content.get(KEY, {"schema": 1} if "engine" in content else None)
    _require(path, parts, {"schema": int})
    if parts["schema"] != SCHEMA:
        saved_by = f"version {SAVED_BY[parts['schema']]}" if parts["schema"] in SAVED_BY else "a later version"
        reason = f"was saved by {saved_by} of ngram_mlp, whose checkpoints this one does not read"
        raise UserError(f"{reason}; check that version out to use it, or train again", ckpt_path=path)
    _require(path, parts, {"model": str})
    hyperparameters, weights = content["hyper_parameters"], content["state_dict"]
    return Checkpoint(Path(path), content, parts, parts["model"], hyperparameters, weights, content["global_step"])


def _require(path: str | Path, content: Any, kinds: dict[str, Any]) -> None:
    """Raises a UserError unless the content is a dictionary with these kinds of values."""
    for key, kind in kinds.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            reason = f"is damaged or no checkpoint of this package: {key} is absent or of the wrong kind; {REMEDY}"
            raise UserError(reason, ckpt_path=path)


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
