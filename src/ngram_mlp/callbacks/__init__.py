"""What happens beside training; each callback decides when, and where to."""

from ngram_mlp.callbacks.activation_statistics import ActivationStatistics
from ngram_mlp.callbacks.batch_norm_statistics import BatchNormStatistics
from ngram_mlp.callbacks.cadence import Cadence
from ngram_mlp.callbacks.checkpoints import RunCheckpoints
from ngram_mlp.callbacks.custom_scalars import CustomScalars
from ngram_mlp.callbacks.embedding_view import EmbeddingView
from ngram_mlp.callbacks.evaluation_statistics import EvaluationStatistics
from ngram_mlp.callbacks.gradient_statistics import GradientStatistics
from ngram_mlp.callbacks.hyperparameters import Hyperparameters
from ngram_mlp.callbacks.initialization_check import InitializationCheck
from ngram_mlp.callbacks.loss_history import LossHistory
from ngram_mlp.callbacks.observer import Observer
from ngram_mlp.callbacks.progress import UpdateProgress
from ngram_mlp.callbacks.sampled_names import SampledNames
from ngram_mlp.callbacks.training_verdicts import TrainingVerdicts

__all__ = [
    "ActivationStatistics",
    "BatchNormStatistics",
    "Cadence",
    "CustomScalars",
    "EmbeddingView",
    "EvaluationStatistics",
    "GradientStatistics",
    "Hyperparameters",
    "InitializationCheck",
    "LossHistory",
    "Observer",
    "RunCheckpoints",
    "SampledNames",
    "TrainingVerdicts",
    "UpdateProgress",
]
