"""What happens beside training; each callback decides when, and where to."""

from ngram_mlp.callbacks.checkpoints import RunCheckpoints
from ngram_mlp.callbacks.evaluation_statistics import EvaluationStatistics
from ngram_mlp.callbacks.hyperparameters import Hyperparameters
from ngram_mlp.callbacks.loss_history import LossHistory
from ngram_mlp.callbacks.progress import UpdateProgress

__all__ = ["EvaluationStatistics", "Hyperparameters", "LossHistory", "RunCheckpoints", "UpdateProgress"]
