"""Tables of metrics."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from ngram_mlp.calibration import Lag

__all__ = ["print_lags", "print_table"]

Metrics = Mapping[str, Mapping[str, float]]


def print_table(console: Console, rows: Mapping[str, Metrics]) -> None:
    """Prints the metrics of the splits, a line each, by statistics; these have a column if there are several."""
    table = Table()
    if len(rows) > 1:
        table.add_column("statistics")
    table.add_column("split")
    for heading in ("loss", "perplexity", "accuracy"):
        table.add_column(heading, justify="right")
    for statistics, metrics in rows.items():
        for split, values in metrics.items():
            cells = (f"{values['loss']:.4f}", f"{values['perplexity']:.3f}", f"{values['accuracy']:.2%}")
            table.add_row(*([statistics] if len(rows) > 1 else []), split, *cells)
    console.print(table)


def print_lags(console: Console, lags: Mapping[str, Lag]) -> None:
    """Prints how far the running estimates are from the statistics over the training split, a line for each layer."""
    table = Table(title="running estimates against the training split", title_justify="left")
    table.add_column("layer")
    table.add_column("mean, in deviations", justify="right")
    table.add_column("deviation", justify="right")
    for layer, lag in lags.items():
        table.add_row(layer, f"{lag.mean:.4f}", f"{lag.std:.2%}")
    console.print(table)
