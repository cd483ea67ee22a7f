"""What performs the updates of a block: a block goes in, the losses of its K updates come out."""

from ngram_mlp.engines.eager import EagerEngine

__all__ = ["EagerEngine"]
