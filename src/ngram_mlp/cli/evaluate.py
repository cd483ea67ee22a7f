"""`scripts/evaluate.py`: prints a table of a checkpoint's losses."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from ngram_mlp.console import open_console
from ngram_mlp.data import NGramDataModule, SplitBatches
from ngram_mlp.data.datamodule import stream_of
from ngram_mlp.data.tokenizer import Tokenizer, Unit
from ngram_mlp.diagnostics.batch_norm_statistics import STATISTICS, drifts, evaluate_splits, measure, require_batch_norm
from ngram_mlp.diagnostics.counting import CountedNGrams
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.loading import load_model, variant
from ngram_mlp.models.metrics import target_probabilities
from runlab import Parser, UserError, command, printable, read_checkpoint, shortened

COLUMNS = {
    "loss": ("loss", "{:.4f}"),
    "perplexity": ("perplexity", "{:.3f}"),
    "accuracy": ("accuracy", "{:.2%}"),
    "bits_per_character": ("bits/char", "{:.4f}"),
    "perplexity_per_word": ("perplexity/word", "{:.1f}"),
}


@command
def main(args: Sequence[str] | None = None) -> None:
    """Prints loss, perplexity and accuracy of a checkpoint on the splits of its corpus."""
    parser = Parser(description="Prints the loss, perplexity and accuracy of a checkpoint on train, val and test.")
    add = parser.add_argument
    add("--ckpt_path", type=str, required=True, help="The checkpoint file, or the folder of its run.")
    corpus = "The corpus: names, sample or a file; by default the corpus the model was trained on."
    add("--corpus", type=str | None, default=None, help=corpus)
    add("--data_dir", type=str | None, default=None, help="The folder of names.txt.")
    add(
        "--statistics",
        type=Literal["running", "batch", "calibrated", "all"],
        default="running",
        help="Batch-norm statistics for evaluation: running estimates, those of the evaluated split (batch) or "
        "training split (calibrated: precise batch norm), or all three.",
    )
    mix = "Mix the best n-gram model into the network with this weight, such as 0.5."
    add("--mix", type=float, default=0.0, help=mix)
    add("--model", type=str, default="LanguageModel", help="A variant of your own, as package.module.Class.")
    options = parser.parse_args(args)
    if not 0 <= options.mix < 1:
        raise UserError("give the n-gram model's weight, at least 0 and below 1", mix=options.mix)
    if options.mix and options.statistics != "running":
        raise UserError("--mix uses the running statistics; remove this option", statistics=options.statistics)
    checkpoint = read_checkpoint(options.ckpt_path)
    model = load_model(checkpoint, variant(options.model, LanguageModel))
    trained_on = stream_of(checkpoint)["corpus"]
    data = _data(model, options.corpus or str(trained_on["name"]), options.data_dir)
    console = open_console()
    if data.corpus.sha256 != trained_on["sha256"]:
        console.print(f"note: the checkpoint was trained on a different corpus, {printable(str(trained_on['name']))}")
    require_batch_norm(model.network, options.statistics)
    if options.mix:
        _print_mixed(console, model, data, options.mix)
    else:
        _print_evaluated(console, model, data, options.statistics)


def _print_evaluated(console: Console, model: LanguageModel, data: NGramDataModule, statistics: str) -> None:
    """Prints the metrics by split; with all statistics, also the drift of the running estimates."""
    wanted = [name for name in STATISTICS if statistics in ("all", name)]
    print_metrics(console, {name: evaluate_splits(model.network, data.splits, name) for name in wanted})
    if statistics != "all":
        return
    measured = measure(model.network, SplitBatches(data.splits["train"]), model.device)
    numbers = (Column(heading, justify="right") for heading in ("mean (in std)", "std"))
    title = "drift of the running estimates from the training split"
    table = Table("layer", *numbers, title=title, title_justify="left")
    for layer, drift in drifts(model.network, measured).items():
        table.add_row(layer, f"{drift.mean:.4f}", f"{drift.std:.2%}")
    console.print(table)


def _data(model: LanguageModel, corpus: str, data_dir: str | None) -> NGramDataModule:
    """Returns a corpus in a model's tokens; raises a UserError if its characters differ from the model's."""
    tokenizer = Tokenizer(model.vocabulary)
    unit: Unit = "text" if tokenizer.is_text else "line"
    data = NGramDataModule(corpus, model.block_size, data_dir=data_dir, unit=unit, tokens=tokenizer.tokens)
    if tokenizer.tokens == "words":  # unknown words share one token
        data.tokenizer = tokenizer
    elif data.vocabulary != model.vocabulary:
        found, own = shortened("".join(data.vocabulary)), shortened("".join(model.vocabulary))
        reason = f"has the characters {found}, but the checkpoint has {own}; give the checkpoint's corpus"
        raise UserError(reason, corpus=data.corpus.name)
    return data


def _print_mixed(console: Console, model: LanguageModel, data: NGramDataModule, share: float) -> None:
    """Prints the losses of the network, of the best counted model, and of their mixture, by split.

    The counted models are Kneser-Ney models; the best is chosen by its loss on `val`. The mixture is of probabilities.
    """
    splits = data.splits
    counted = CountedNGrams(splits["train"], len(data.tokenizer))
    order = int(np.argmin([-np.log(found).mean() for found in counted.kneser_ney(splits["val"])]))
    columns = (Column(name, justify="right") for name in ("network", f"{order + 1}-grams", "mixed"))
    title = f"loss (perplexity): network, Kneser-Ney n-grams, and a mixture with {share:g} of the latter"
    table = Table("split", *columns, title=title, title_justify="left")
    for name in ("val", "test"):  # not `train`, where the n-grams are counted
        own = target_probabilities(model, SplitBatches(splits[name]))
        other = counted.kneser_ney(splits[name])[order]
        losses = (float(-np.log(p).mean()) for p in (own, other, (1 - share) * own + share * other))
        table.add_row(name, *(f"{loss:.4f} ({math.exp(loss):.3f})" for loss in losses))
    console.print(table)


def print_metrics(console: Console, rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Prints the metrics by statistics and split, one line each; several statistics get a column."""
    several = len(rows) > 1
    known = {name for metrics in rows.values() for values in metrics.values() for name in values}
    train = next(iter(next(iter(rows.values())).values()))
    if math.isclose(train.get("perplexity_per_word", 0), train["perplexity"], rel_tol=1e-3):  # tokens are words
        known -= {"perplexity_per_word"}
    shown = {name: column for name, column in COLUMNS.items() if name in known}
    numbers = (Column(heading, justify="right") for heading, _ in shown.values())
    table = Table(*(["statistics"] if several else []), "split", *numbers)
    for statistics, metrics in rows.items():
        for split, values in metrics.items():
            cells = (form.format(values[name]) if name in values else "" for name, (_, form) in shown.items())
            name = f"{split}, {values['examples']:,} examples" if "examples" in values else split
            table.add_row(*([statistics] if several else []), name, *cells)
    console.print(table)
