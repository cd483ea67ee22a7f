"""How updates are performed: engines, chunks of updates, schedules, several processes, Lightning's counters.

Machinery: it knows a network, its optimizer and its schedule, and no model of this package. Nothing here has to be
changed for a new network, a new diagnostic or a new experiment; a new engine goes beside `eager.py` and `fused.py`.
"""

from ngram_mlp.training.engines import EagerEngine, Engine, EngineName, choose_engine
from ngram_mlp.training.optimizers import CannotFuseError
from ngram_mlp.training.trainer import Calls

__all__ = ["Calls", "CannotFuseError", "EagerEngine", "Engine", "EngineName", "choose_engine"]
