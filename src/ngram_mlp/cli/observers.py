"""The callbacks that look inside the network, as `--observe.*` asks for them."""

from jsonargparse import Namespace
from pytorch_lightning import Callback
from pytorch_lightning.cli import LightningArgumentParser
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
from ngram_mlp.statistics import SATURATION

__all__ = ["add_observe_arguments", "observers"]


def add_observe_arguments(parser: LightningArgumentParser) -> None:
    """Adds the options `--observe.*`."""
    parser.add_argument(
        "--observe.cadence",
        type=str,
        default="default",
        help="The updates between two looks at numbers, histograms and figures, as 5000/50000/0 (default; 0: only "
        "at the last update), or often (100/1000/10000), each (1/10/100), off.",
    )
    parser.add_argument(
        "--observe.layers", type=str, default="*", help="A pattern for the names of the layers to look at."
    )
    parser.add_argument(
        "--observe.saturation",
        type=float,
        default=SATURATION,
        help="The abs(tanh) above which a unit is saturated; for other non-linearities the same slope counts.",
    )


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
