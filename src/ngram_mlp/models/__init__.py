"""The networks, each a LightningModule, and their layers.

For research: to add a variant, write one class in one file, as CONTRIBUTING.md shows.
"""

from ngram_mlp.models.language_model import LanguageModel
from ngram_mlp.models.mlp import MLP, BatchNormMLP
from ngram_mlp.models.wavenet import WaveNet

__all__ = ["MLP", "BatchNormMLP", "LanguageModel", "WaveNet"]
