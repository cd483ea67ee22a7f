"""The variants: each builds a network, and shares training and evaluation."""

from ngram_mlp.models.language_model import LanguageModel
from ngram_mlp.models.mlp import MLP

__all__ = ["MLP", "LanguageModel"]
