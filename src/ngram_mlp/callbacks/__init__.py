"""Callbacks: each decides when to compute something during training, and where the result goes.

For research: `Inspect` measures a list of quantities; to add one, write one class, as CONTRIBUTING.md shows.
"""

from ngram_mlp.callbacks.batch_norm_statistics import BatchNormStatistics, EvaluationStatistics
from ngram_mlp.callbacks.custom_scalars import CustomScalars
from ngram_mlp.callbacks.figures import Figures
from ngram_mlp.callbacks.hyperparameters import Hyperparameters
from ngram_mlp.callbacks.inspection import Inspect
from ngram_mlp.callbacks.layer_statistics import ActivationStatistics, GradientStatistics
from ngram_mlp.callbacks.loss_history import LossHistory
from ngram_mlp.callbacks.losses import Losses
from ngram_mlp.callbacks.outcome import Outcome
from ngram_mlp.callbacks.progress import UpdateProgress
from ngram_mlp.callbacks.quantity import Intervals, Quantity
from ngram_mlp.callbacks.recorder import Recorder
from ngram_mlp.callbacks.samples import EmbeddingView, SampledNames
from ngram_mlp.callbacks.validation_at_end import ValidationAtEnd
from ngram_mlp.callbacks.verdicts import InitializationCheck, TrainingVerdicts

__all__ = [
    "ActivationStatistics",
    "BatchNormStatistics",
    "CustomScalars",
    "EmbeddingView",
    "EvaluationStatistics",
    "Figures",
    "GradientStatistics",
    "Hyperparameters",
    "InitializationCheck",
    "Inspect",
    "Intervals",
    "LossHistory",
    "Losses",
    "Outcome",
    "Quantity",
    "Recorder",
    "SampledNames",
    "TrainingVerdicts",
    "UpdateProgress",
    "ValidationAtEnd",
]
