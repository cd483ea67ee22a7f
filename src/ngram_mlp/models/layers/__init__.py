"""The layers of the variants, and how their parameters are drawn.

For research: a new norm goes into `normalization.py`, a new layer into a file of its own.
"""

from ngram_mlp.models.layers.batch_norm import BatchNorm, batch_norms, examples_of
from ngram_mlp.models.layers.initialization import (
    NO_BIAS,
    UNIFORM_BIAS,
    Initialization,
    Initializer,
    embedding,
    gain_of,
    linear,
)
from ngram_mlp.models.layers.names import named_layers, named_weights
from ngram_mlp.models.layers.normalization import BatchNormalization, Norm, Normalization

__all__ = [
    "NO_BIAS",
    "UNIFORM_BIAS",
    "BatchNorm",
    "BatchNormalization",
    "Initialization",
    "Initializer",
    "Norm",
    "Normalization",
    "batch_norms",
    "embedding",
    "examples_of",
    "gain_of",
    "linear",
    "named_layers",
    "named_weights",
]
