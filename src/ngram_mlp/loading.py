"""Checkpoints read as data: nothing that a checkpoint names is imported or run."""

from pathlib import Path
from typing import Any

import torch

from ngram_mlp.errors import UserError
from ngram_mlp.models import MLP, LanguageModel

__all__ = ["load_model", "read_checkpoint"]

KNOWN_MODELS: dict[str, type[LanguageModel]] = {MLP.__name__: MLP}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file that this package saved, with tensors on the CPU.

    Raises:
        UserError: there is no such file, or it is no checkpoint of this package.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"--ckpt_path {path}: cannot be read ({error.strerror}); give a .ckpt file of a run") from error
    except Exception as error:  # what a file that is no checkpoint raises in the unpickler is anybody's guess
        raise UserError(f"--ckpt_path {path}: is no checkpoint; give a .ckpt file of a run") from error
    if not (isinstance(checkpoint, dict) and {"model", "hyper_parameters", "state_dict"} <= checkpoint.keys()):
        raise UserError(f"--ckpt_path {path}: is no checkpoint of this package; give a .ckpt file of a run")
    return checkpoint


def load_model(checkpoint: dict[str, Any], model_class: type[LanguageModel] | None = None) -> LanguageModel:
    """The model of a checkpoint that `read_checkpoint` returned, in evaluation mode.

    Args:
        checkpoint: what `read_checkpoint` returned.
        model_class: the class of a variant of the user's own; by default one of this package, by the saved name.

    Raises:
        UserError: the checkpoint holds another class, or its weights do not fit.
    """
    name = checkpoint["model"]
    model_class = model_class or KNOWN_MODELS.get(name)
    if model_class is None or model_class.__name__ != name:
        raise UserError(
            f"--ckpt_path: the checkpoint holds a model {name!r}; name its class with --model, as package.module.Class"
        )
    try:
        model = model_class(**checkpoint["hyper_parameters"])
        model.load_state_dict(checkpoint["state_dict"])
    except (TypeError, RuntimeError, AttributeError) as error:
        raise UserError(f"--ckpt_path: the checkpoint does not fit {name}: {' '.join(str(error).split())}") from error
    return model.eval()
