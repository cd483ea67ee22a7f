"""What happens beside training: each callback decides when something is computed, and where it goes.

For research: a callback of your own is one class, an `Observer` if it examines the network, as CONTRIBUTING.md shows.
"""

from ngram_mlp.callbacks.batch_norm_statistics import BatchNormStatistics, EvaluationStatistics
from ngram_mlp.callbacks.checkpoints import RunCheckpoints
from ngram_mlp.callbacks.custom_scalars import CustomScalars
from ngram_mlp.callbacks.diagnosis import Diagnosis
from ngram_mlp.callbacks.hyperparameters import Hyperparameters
from ngram_mlp.callbacks.layer_statistics import ActivationStatistics, GradientStatistics
from ngram_mlp.callbacks.loss_history import LossHistory
from ngram_mlp.callbacks.losses import Losses
from ngram_mlp.callbacks.observer import Intervals, Observer
from ngram_mlp.callbacks.outcome import Outcome
from ngram_mlp.callbacks.progress import UpdateProgress
from ngram_mlp.callbacks.recorder import Recorder
from ngram_mlp.callbacks.samples import EmbeddingView, SampledNames
from ngram_mlp.callbacks.validation_at_end import ValidationAtEnd
from ngram_mlp.callbacks.verdicts import InitializationCheck, TrainingVerdicts

__all__ = [
    "ActivationStatistics",
    "BatchNormStatistics",
    "CustomScalars",
    "Diagnosis",
    "EmbeddingView",
    "EvaluationStatistics",
    "GradientStatistics",
    "Hyperparameters",
    "InitializationCheck",
    "Intervals",
    "LossHistory",
    "Losses",
    "Observer",
    "Outcome",
    "Recorder",
    "RunCheckpoints",
    "SampledNames",
    "TrainingVerdicts",
    "UpdateProgress",
    "ValidationAtEnd",
]
