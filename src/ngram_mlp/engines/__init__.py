"""What performs the updates of a block: a block goes in, the losses of its K updates come out."""

from ngram_mlp.engines.choice import Engine, EngineName, choose_engine
from ngram_mlp.engines.eager import EagerEngine
from ngram_mlp.engines.formulas import CannotFuseError

__all__ = ["CannotFuseError", "EagerEngine", "Engine", "EngineName", "choose_engine"]
