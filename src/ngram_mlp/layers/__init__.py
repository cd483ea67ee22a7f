"""The layers of the variants, and how their parameters are drawn."""

from ngram_mlp.layers.activation import activation, gain_of
from ngram_mlp.layers.batch_norm import BatchNorm
from ngram_mlp.layers.initialization import NO_BIAS, Initialization, Initializer, embedding, linear
from ngram_mlp.layers.normalization import Normalization
from ngram_mlp.layers.residual import Residual

__all__ = [
    "NO_BIAS",
    "BatchNorm",
    "Initialization",
    "Initializer",
    "Normalization",
    "Residual",
    "activation",
    "embedding",
    "gain_of",
    "linear",
]
