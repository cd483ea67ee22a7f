"""What about a run may be changed when it goes on, and whether a checkpoint belongs to it at all."""

import json
from collections.abc import Iterator
from typing import Any

from ngram_mlp.checkpoint_file import read_checkpoint
from ngram_mlp.cli.origin import Origin
from ngram_mlp.data import NGramDataModule
from ngram_mlp.errors import UserError
from ngram_mlp.loading import load_weights
from ngram_mlp.models import LanguageModel
from ngram_mlp.terminal import shortened

__all__ = ["check_checkpoint"]

# What may change while the checkpoint stays true: how long and how a run is watched, where its files are (the corpus is
# told by its hash), and the learning rates to come.
CHANGEABLE = (
    "trainer",
    "checkpoint_every",
    "model.optimizer.lr",
    "model.lr_scheduler",
    "model.engine",
    "observe",
    "statistics",
)
PLACES = ("name", "runs_dir", "data.corpus", "data.data_dir", "ckpt_path", "resume")


def check_checkpoint(origin: Origin, configuration: str, model: LanguageModel, data: NGramDataModule) -> dict[str, Any]:
    """The checkpoint that a run goes on from, once it is found to belong to its configuration, model and data.

    Raises:
        UserError: it does not, or something is asked for that cannot be changed any more.
    """
    checkpoint = read_checkpoint(origin.checkpoint)
    changed = _changes(checkpoint, json.loads(configuration))
    try:
        stream = checkpoint[type(data).__name__]
        data.refuse_another_corpus(stream["corpus"])
        if checkpoint["model"] != type(model).__name__ or checkpoint["hyper_parameters"] != model.hparams:
            raise ValueError("its model is not that of its configuration")
        load_weights(model, checkpoint["state_dict"])
        updates = checkpoint["global_step"]
        if not checkpoint["callbacks"]["LossHistory"]["losses"].shape == (updates,) == (stream["update"],):
            raise ValueError("its losses, its stream and its weights are not of one update")
        if not all(isinstance(size, int) and size >= 0 for size in checkpoint["events"].values()):
            raise ValueError("it does not tell the length of TensorBoard's files")
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = shortened(str(error), 300)
        raise UserError(f"--ckpt_path {origin.checkpoint}: no run can go on from it: {reason}") from error
    model.renew_schedule = any(option.startswith(("model.optimizer", "model.lr_scheduler")) for option in changed)
    return checkpoint


def _changes(checkpoint: dict[str, Any], given: dict[str, Any]) -> set[str]:
    """Compares this configuration with the one that a checkpoint was trained with.

    Returns:
        The options that differ, all of which a run that goes on can honour.

    Raises:
        UserError: an option differs that cannot be changed any more.
    """
    try:
        before = dict(_flattened(json.loads(checkpoint["configuration"])))
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError) as error:
        raise UserError(
            "--ckpt_path: the checkpoint holds no configuration, so that no run can go on from it"
        ) from error
    now = dict(_flattened(given))
    changed = {key for key in {**before, **now} if before.get(key) != now.get(key) and key not in PLACES}
    for key in [key for key in {**before, **now} if key in changed]:
        if not any(key == other or key.startswith(f"{other}.") for other in CHANGEABLE):
            raise UserError(
                f"--{key} {shortened(now.get(key))}: the checkpoint was trained with {shortened(before.get(key))}; "
                f"a run that goes on can change --{', --'.join(CHANGEABLE)}; leave this as it was, or start a new run"
            )
    if (updates := now["trainer.max_steps"]) < (done := checkpoint["global_step"]):
        raise UserError(f"--trainer.max_steps {updates}: the checkpoint is at update {done}; give at least that")
    return changed


def _flattened(nested: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a configuration by option, as it is typed: `class_path` and `init_args` are left out of names."""
    for key, value in nested.items():
        name = prefix.removesuffix(".") if key == "class_path" else prefix if key == "init_args" else f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _flattened(value, f"{name.removesuffix('.')}.")
        else:
            yield name, value
