"""`scripts/evaluate.py`: the table of a checkpoint's losses."""

from collections.abc import Mapping, Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table

from ngram_mlp.cli.command import Parser, command, open_console
from ngram_mlp.data import NGramDataModule, SplitBatches
from ngram_mlp.diagnostics.batch_norm_statistics import (
    STATISTICS,
    Drift,
    drifts,
    evaluate_splits,
    measure,
    require_batch_norm,
)
from ngram_mlp.errors import UserError, printable, shortened
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.loading import load_model
from ngram_mlp.runs.checkpoint import read_checkpoint


@command
def main(args: Sequence[str] | None = None) -> None:
    """Prints loss, perplexity and accuracy of a checkpoint on the splits of its corpus."""
    parser = Parser(description="Prints the loss, perplexity and accuracy of a checkpoint on train, val and test.")
    parser.add_argument("--ckpt_path", type=str, required=True, help="The checkpoint file.")
    parser.add_argument(
        "--corpus", type=str | None, default=None, help="Names, sample or a file; by default what it was trained on."
    )
    parser.add_argument("--data_dir", type=str | None, default=None, help="The folder of names.txt.")
    parser.add_argument(
        "--statistics",
        type=Literal["running", "batch", "calibrated", "all"],
        default="running",
        help="What batch norm evaluates with: its running estimates, the statistics over the evaluated split, or those "
        "over the training split (precise batch norm); or all three.",
    )
    parser.add_argument(
        "--model", type=type[LanguageModel] | None, default=None, help="The class of a variant of your own."
    )
    options = parser.parse_args(args)
    checkpoint = read_checkpoint(options.ckpt_path)
    model = load_model(checkpoint, options.model)
    trained_on = checkpoint.stream["corpus"]
    data = NGramDataModule(options.corpus or str(trained_on["name"]), model.block_size, data_dir=options.data_dir)
    console = open_console()
    if data.characters != model.characters:
        raise UserError(
            f"its characters {shortened(data.characters)} are not those of the checkpoint, "
            f"{shortened(model.characters)}; give the corpus that it was trained on",
            corpus=data.corpus.name,
        )
    if data.corpus.sha256 != trained_on["sha256"]:
        console.print(f"note: the checkpoint was trained on another corpus, {printable(str(trained_on['name']))}")
    require_batch_norm(model.network, options.statistics)
    wanted = STATISTICS if options.statistics == "all" else (options.statistics,)
    print_metrics(console, {name: evaluate_splits(model.network, data.splits, name) for name in wanted})
    if options.statistics == "all":
        measured = measure(model.network, SplitBatches(data.splits["train"]), model.device)
        _print_drifts(console, drifts(model.network, measured))


def print_metrics(console: Console, rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Prints the metrics by statistics and split, a line each; the statistics have a column if there are several."""
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


def _print_drifts(console: Console, found: Mapping[str, Drift]) -> None:
    table = Table(title="running estimates against the training split", title_justify="left")
    table.add_column("layer")
    table.add_column("mean, in stds", justify="right")
    table.add_column("std", justify="right")
    for layer, drift in found.items():
        table.add_row(layer, f"{drift.mean:.4f}", f"{drift.std:.2%}")
    console.print(table)
