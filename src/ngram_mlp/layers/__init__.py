"""Layers written for this project, and how their parameters are drawn."""

from ngram_mlp.layers.batch_norm import BatchNorm
from ngram_mlp.layers.initialization import Initializer, embedding, linear

__all__ = ["BatchNorm", "Initializer", "embedding", "linear"]
