"""What happens beside training: each callback decides when to look, and where the numbers go.

For research: a callback of your own is one class, an `Observer` if it looks inside the network, as CONTRIBUTING.md shows.
"""

from ngram_mlp.callbacks.activation_statistics import ActivationStatistics
from ngram_mlp.callbacks.batch_norm_statistics import BatchNormStatistics, EvaluationStatistics
from ngram_mlp.callbacks.checkpoints import RunCheckpoints
from ngram_mlp.callbacks.gradient_statistics import GradientStatistics
from ngram_mlp.callbacks.loss_history import LossHistory
from ngram_mlp.callbacks.observer import Intervals, Observer
from ngram_mlp.callbacks.progress import UpdateProgress
from ngram_mlp.callbacks.recorder import Recorder
from ngram_mlp.callbacks.sampled_names import SampledNames
from ngram_mlp.callbacks.tensorboard import CustomScalars, EmbeddingView, Hyperparameters
from ngram_mlp.callbacks.verdicts import InitializationCheck, TrainingVerdicts

__all__ = [
    "ActivationStatistics",
    "BatchNormStatistics",
    "CustomScalars",
    "EmbeddingView",
    "EvaluationStatistics",
    "GradientStatistics",
    "Hyperparameters",
    "InitializationCheck",
    "Intervals",
    "LossHistory",
    "Observer",
    "Recorder",
    "RunCheckpoints",
    "SampledNames",
    "TrainingVerdicts",
    "UpdateProgress",
]
