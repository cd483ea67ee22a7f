"""`scripts/evaluate.py`: the table of a checkpoint's losses."""

from collections.abc import Mapping, Sequence
from typing import Literal, cast

from rich.console import Console
from rich.table import Column, Table

from ngram_mlp.console import open_console
from ngram_mlp.data import NGramDataModule, SplitBatches
from ngram_mlp.data.corpus import Unit
from ngram_mlp.data.datamodule import stream_of
from ngram_mlp.diagnostics.batch_norm_statistics import STATISTICS, drifts, evaluate_splits, measure, require_batch_norm
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.loading import load_model, variant
from runlab import Parser, UserError, command, printable, read_checkpoint, shortened


@command
def main(args: Sequence[str] | None = None) -> None:
    """Prints loss, perplexity and accuracy of a checkpoint on the splits of its corpus."""
    parser = Parser(description="Prints the loss, perplexity and accuracy of a checkpoint on train, val and test.")
    add = parser.add_argument
    add("--ckpt_path", type=str, required=True, help="The checkpoint file, or the folder of its run.")
    add("--corpus", type=str | None, default=None, help="Names, sample or a file; by default what it was trained on.")
    add("--data_dir", type=str | None, default=None, help="The folder of names.txt.")
    add(
        "--statistics",
        type=Literal["running", "batch", "calibrated", "all"],
        default="running",
        help="What batch norm evaluates with: its running estimates, the statistics over the evaluated split, or those "
        "over the training split (precise batch norm); or all three.",
    )
    add("--model", type=str, default="LanguageModel", help="A variant of your own, as package.module.Class.")
    options = parser.parse_args(args)
    checkpoint = read_checkpoint(options.ckpt_path)
    model = load_model(checkpoint, variant(options.model, LanguageModel))
    trained_on = stream_of(checkpoint)["corpus"]
    corpus, unit = options.corpus or str(trained_on["name"]), trained_on.get("unit", "line")
    data = NGramDataModule(corpus, model.block_size, data_dir=options.data_dir, unit=cast(Unit, unit))
    console = open_console()
    if data.characters != model.characters:
        found, own = shortened(data.characters), shortened(model.characters)
        raise UserError(f"its characters are {found}, the checkpoint's {own}; give its corpus", corpus=data.corpus.name)
    if data.corpus.sha256 != trained_on["sha256"]:
        console.print(f"note: the checkpoint was trained on another corpus, {printable(str(trained_on['name']))}")
    require_batch_norm(model.network, options.statistics)
    wanted = STATISTICS if options.statistics == "all" else (options.statistics,)
    print_metrics(console, {name: evaluate_splits(model.network, data.splits, name) for name in wanted})
    if options.statistics == "all":
        measured = measure(model.network, SplitBatches(data.splits["train"]), model.device)
        numbers = (Column(heading, justify="right") for heading in ("mean, in stds", "std"))
        title = "running estimates against the training split"
        table = Table("layer", *numbers, title=title, title_justify="left")
        for layer, drift in drifts(model.network, measured).items():
            table.add_row(layer, f"{drift.mean:.4f}", f"{drift.std:.2%}")
        console.print(table)


def print_metrics(console: Console, rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Prints the metrics by statistics and split, a line each; the statistics have a column if there are several."""
    several = len(rows) > 1
    numbers = (Column(heading, justify="right") for heading in ("loss", "perplexity", "accuracy"))
    table = Table(*(["statistics"] if several else []), "split", *numbers)
    for statistics, metrics in rows.items():
        for split, values in metrics.items():
            cells = (f"{values['loss']:.4f}", f"{values['perplexity']:.3f}", f"{values['accuracy']:.2%}")
            table.add_row(*([statistics] if several else []), split, *cells)
    console.print(table)
