"""Models built from checkpoints, which are data: nothing that a checkpoint names is imported or run."""

import math
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ngram_mlp.data.ngrams import BOUNDARY
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
        stored = sum(weight.numel() for weight in checkpoint.weights.values())
        _refuse_impossible(checkpoint.hyperparameters, stored)
        with _Allowance(stored):
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


def _refuse_impossible(hyperparameters: dict[str, Any], stored: int) -> None:
    characters, block_size = hyperparameters.get("characters"), hyperparameters.get("block_size")
    if not (
        isinstance(characters, str)
        and characters.startswith(BOUNDARY)
        and len(set(characters)) == len(characters) > 1
        and not any("\ud800" <= character <= "\udfff" for character in characters)
    ):
        raise ValueError(f"characters {shortened(characters)} are not a vocabulary")
    if not (isinstance(block_size, int) and 1 <= block_size <= stored):
        raise ValueError(f"block_size {shortened(block_size)} is not possible with {stored:,} weights")


class _Allowance(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets tensors be created until they hold several times as many elements as a checkpoint's weights.

    A constructor needs about twice as many; forged hyperparameters would have it take the machine's memory.
    """

    def __init__(self, stored: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._left = 8 * stored + 2**16

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        like = args[0] if args else kwargs.get("size", 0)
        default = "meta" if getattr(like, "is_meta", False) else "cpu"
        if str(kwargs.get("device", default)) != "meta":
            self._left -= _elements(like)
        if self._left < 0:
            raise ValueError("its hyperparameters ask for a larger network than its weights are")
        return func(*args, **kwargs)


def _elements(like: Any) -> int:
    """How many elements an operation's first argument stands for: a tensor, a shape, or a length."""
    if isinstance(like, Tensor):
        return like.numel()
    if isinstance(like, (list, tuple)) and all(isinstance(n, int) for n in like):
        return math.prod(like)
    return like if isinstance(like, int) else 0
