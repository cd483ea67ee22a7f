"""What a checkpoint holds: all of it is defined here, and whoever writes or reads a part of it does so through this file.

Lightning saves weights, optimizer, schedule, the states of callbacks and data, and the model's hyperparameters under keys
of its own. What this package adds lies under one key, `ngram_mlp`, with the version of the schema.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

from lightning_fabric.plugins import TorchCheckpointIO
from torch import Tensor

import ngram_mlp
from ngram_mlp.errors import UserError
from ngram_mlp.runs.checkpoint_file import load, serialized
from ngram_mlp.runs.files import write_atomically

SCHEMA = 2  # version 0.1 had the first, without a number
KEY = "ngram_mlp"
REMEDY = "give a .ckpt file of a run"


class Parts(TypedDict, total=False):
    """What this package adds to a checkpoint.

    The model adds the first four, `RunCheckpoints` the last two, which only a run of `train.py` has.
    """

    model: str  # the name of its class
    engine: str | None  # which trained it; None before the first update
    losses: Tensor  # of every update so far, float32 (updates,)
    logged: int  # how many of them are in a mean that was logged
    configuration: str  # of the run, as JSON
    events: dict[str, int]  # the length of each TensorBoard file, in bytes


class StreamState(TypedDict):
    """The state of the data: where the stream of minibatches stands, and of which corpus it is."""

    update: int  # the next one
    stream_generator: Tensor  # its state before that minibatch is drawn
    default_generator: Tensor  # the state of torch's, which dropout and users' callbacks draw from
    corpus: dict[str, str | int]  # name, sha256 and number of words


def add_parts(content: dict[str, Any], parts: Parts) -> None:
    """Adds parts to the content of a checkpoint that is about to be saved."""
    own = content.setdefault(KEY, {"schema": SCHEMA, "version": ngram_mlp.__version__})
    own.update(parts)


def parts_of(content: Mapping[str, Any]) -> Parts:
    """The parts in the content of a checkpoint that is being loaded."""
    parts: Parts = content[KEY]
    return parts


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: data, whose content nobody has vouched for beyond what `read_checkpoint` checks.

    Args:
        path: where it was read from.
        content: everything in it, as Lightning restores it.
    """

    path: Path
    content: dict[str, Any]

    @property
    def parts(self) -> Parts:
        """What this package added."""
        return parts_of(self.content)

    @property
    def model(self) -> str:
        """The name of the model's class."""
        return self.parts["model"]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The arguments of the model's constructor, but for optimizer, schedule and engine."""
        hyperparameters: dict[str, Any] = self.content["hyper_parameters"]
        return hyperparameters

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters and buffers by name."""
        weights: dict[str, Tensor] = self.content["state_dict"]
        return weights

    @property
    def update(self) -> int:
        """How many updates were done."""
        return int(self.content["global_step"])

    @property
    def stream(self) -> StreamState:
        """The state of the data.

        Raises:
            UserError: it has none, as it was trained on data of another kind.
        """
        for value in self.content.values():
            if isinstance(value, dict) and StreamState.__required_keys__ <= value.keys():
                return value  # type: ignore[return-value]  # under the name of the datamodule's class
        raise self.error("does not tell which corpus it was trained on; it was not saved by train.py")

    def error(self, reason: str) -> UserError:
        """A UserError about this checkpoint."""
        return UserError(reason, ckpt_path=self.path)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """A checkpoint file that this package saved, with tensors on the CPU.

    Nothing that the file names is imported or run, and nothing is allocated for it beyond the size of the file.

    Raises:
        UserError: there is no such file, or it is damaged, of another version, or no checkpoint of this package.
    """
    content = load(path)
    checkpoint = Checkpoint(Path(path), content)
    kinds = {"global_step": int, "hyper_parameters": dict, "state_dict": dict}
    for key, kind in kinds.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            raise checkpoint.error(f"is no checkpoint of this package, {key} is absent or of another kind; {REMEDY}")
    parts = content.get(KEY, {"schema": 1} if "engine" in content else None)
    if not isinstance(parts, dict) or not isinstance(parts.get("schema"), int):
        raise checkpoint.error(f"is no checkpoint of this package; {REMEDY}")
    if parts["schema"] != SCHEMA:
        saved_by = "0.1" if parts["schema"] == 1 else parts.get("version")
        raise checkpoint.error(
            f"was saved by version {saved_by!s:.20} of ngram_mlp, this is {ngram_mlp.__version__}; check that version out "
            "to go on with it, or train again"
        )
    expected: dict[str, Any] = {"model": str, "engine": str | None, "losses": Tensor, "logged": int}
    for part, kind in expected.items():
        if not isinstance(parts.get(part), kind):
            raise checkpoint.error(f"is damaged, {part} is absent or of another kind; {REMEDY}")
    return checkpoint


class CheckpointFiles(TorchCheckpointIO):
    """How a trainer saves and loads checkpoints, whoever asks it to.

    Args:
        checked: a checkpoint that was read, checked and perhaps changed before; it is loaded from here, not from its file.
    """

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
