"""Models built from checkpoints, which are data: nothing that a checkpoint names is imported or run."""

from typing import Any

from ngram_mlp.errors import shortened
from ngram_mlp.models.language_model import LanguageModel
from ngram_mlp.models.mlp import MLP, BatchNormMLP
from ngram_mlp.models.wavenet import WaveNet
from ngram_mlp.runs.checkpoint import Checkpoint

KNOWN_MODELS: dict[str, type[LanguageModel]] = {kind.__name__: kind for kind in (MLP, BatchNormMLP, WaveNet)}


def load_model(
    checkpoint: Checkpoint, model_class: type[LanguageModel] | None = None, strict: bool = True, **arguments: Any
) -> LanguageModel:
    """The model of a checkpoint, in evaluation mode; a UserError where its class or its weights do not fit.

    By default the class is the one of this package that the checkpoint names; `model_class` is for the user's own.
    Further arguments of its constructor replace those in the checkpoint. Only if `strict` are all weights required.
    """
    name = checkpoint.model
    model_class = model_class or KNOWN_MODELS.get(name)
    if model_class is None or model_class.__name__ != name:
        raise checkpoint.error(f"holds a model {shortened(name)}; name its class as the model, as package.module.Class")
    try:
        model = model_class(**checkpoint.hyperparameters | arguments)
        load_weights(model, checkpoint.weights, strict)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, AttributeError) as error:
        reason = shortened(" ".join(str(error).split()), 300)
        raise checkpoint.error(f"does not fit {name}: {reason}") from error
    return model.eval()


def load_weights(model: LanguageModel, weights: dict[str, Any], strict: bool = True) -> None:
    """Puts the weights of a checkpoint into a model; raises a built-in error of any kind if they do not fit."""
    for key, own in model.state_dict().items():
        if key in weights and weights[key].is_floating_point() != own.is_floating_point():
            raise TypeError(f"{key} is of {weights[key].dtype}, not {own.dtype}")
    model.load_state_dict(weights, strict)
