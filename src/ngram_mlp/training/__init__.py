"""How updates are performed: engines, chunks of updates, schedules, several processes, Lightning's counters.

Machinery that knows no model, so that only a new engine needs a change here; it goes beside `fused.py`.
"""

from ngram_mlp.training.calls import Calls
from ngram_mlp.training.engines import Before, EagerEngine, Engine, EngineName, choose_engine
from ngram_mlp.training.optimizers import CannotFuseError

__all__ = ["Before", "Calls", "CannotFuseError", "EagerEngine", "Engine", "EngineName", "choose_engine"]
