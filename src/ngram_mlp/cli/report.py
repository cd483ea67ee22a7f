"""What a person reads at the end of a command."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from ngram_mlp.data import NGramDataModule
from ngram_mlp.data.datamodule import Chunks
from ngram_mlp.evaluation import evaluate
from ngram_mlp.models import LanguageModel

__all__ = ["evaluate_splits", "print_table"]


def evaluate_splits(model: LanguageModel, data: NGramDataModule) -> dict[str, dict[str, float]]:
    """Loss, perplexity and accuracy for `train`, `val` and `test`, computed where the model is."""
    return {name: evaluate(model, Chunks(ngrams), model.device) for name, ngrams in data.splits.items()}


def print_table(console: Console, metrics: Mapping[str, Mapping[str, float]]) -> None:
    """Prints the metrics of the splits, a line each."""
    table = Table()
    table.add_column("split")
    for heading in ("loss", "perplexity", "accuracy"):
        table.add_column(heading, justify="right")
    for split, values in metrics.items():
        table.add_row(split, f"{values['loss']:.4f}", f"{values['perplexity']:.3f}", f"{values['accuracy']:.2%}")
    console.print(table)
