"""Variants by their names, as the commands take them that read a checkpoint."""

from importlib import import_module

from ngram_mlp.models.language_model import LanguageModel
from ngram_mlp.models.mlp import MLP, BatchNormMLP
from ngram_mlp.models.wavenet import WaveNet
from runlab import UserError


def variant(name: str) -> type[LanguageModel]:
    """Returns the class of this package with a name, or that of one's own, `package.module.Class`.

    Raises a UserError where there is none.
    """
    for kind in (LanguageModel, MLP, BatchNormMLP, WaveNet):
        if name in (kind.__name__, f"{kind.__module__}.{kind.__name__}"):
            return kind
    module, _, own = name.rpartition(".")
    try:
        found = getattr(import_module(module), own, None) if module else None
    except ImportError as error:
        raise UserError(f"{error}; install it, or name its folder in PYTHONPATH", model=name) from error
    if not (isinstance(found, type) and issubclass(found, LanguageModel)):
        raise UserError("is not a variant of LanguageModel; give package.module.Class", model=name)
    return found
