"""The callbacks that look inside the network, as `--observe.*` asks for them."""

from jsonargparse import Namespace
from pytorch_lightning import Callback
from rich.console import Console

from ngram_mlp.callbacks import (
    ActivationStatistics,
    BatchNormStatistics,
    CustomScalars,
    EmbeddingView,
    GradientStatistics,
    InitializationCheck,
    SampledNames,
    TrainingVerdicts,
)
from ngram_mlp.errors import UserError

__all__ = ["observers"]


def observers(observe: Namespace, console: Console) -> list[Callback]:
    """All of them, or none with the cadence `off`.

    Args:
        observe: `cadence`, `layers` and `saturation`.
        console: where the verdicts are printed.
    """
    if not 0 < observe.saturation < 1:
        raise UserError(f"--observe.saturation {observe.saturation}: give a number between 0 and 1, such as 0.97")
    if observe.cadence == "off":
        return []
    return [
        InitializationCheck(console, observe.saturation),
        ActivationStatistics(observe.cadence, observe.layers, observe.saturation),
        GradientStatistics(observe.cadence, observe.layers),
        BatchNormStatistics(observe.cadence, observe.layers),
        TrainingVerdicts(observe.cadence, observe.layers, observe.saturation, console),
        SampledNames(observe.cadence),
        EmbeddingView(observe.cadence),
        CustomScalars(),
    ]
