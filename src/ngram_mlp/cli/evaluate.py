"""`scripts/evaluate.py`: the table of a checkpoint's losses."""

from collections.abc import Sequence
from typing import Literal

from ngram_mlp.calibration import STATISTICS, evaluate_splits, lags, measure, require_batch_norm
from ngram_mlp.cli.command import Parser, command
from ngram_mlp.cli.console import open_console
from ngram_mlp.cli.tables import print_lags, print_table
from ngram_mlp.data import Chunks, NGramDataModule
from ngram_mlp.errors import UserError
from ngram_mlp.loading import corpus_of, load_model, read_checkpoint
from ngram_mlp.models import LanguageModel
from ngram_mlp.terminal import printable, shortened

__all__ = ["main"]


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
        "over the training split; or all three.",
    )
    parser.add_argument(
        "--model", type=type[LanguageModel] | None, default=None, help="The class of a variant of your own."
    )
    options = parser.parse_args(args)
    checkpoint = read_checkpoint(options.ckpt_path)
    model = load_model(checkpoint, options.model)
    name, sha256 = corpus_of(checkpoint)
    data = NGramDataModule(options.corpus or name, model.block_size, data_dir=options.data_dir)
    console = open_console()
    if data.characters != model.characters:
        raise UserError(
            f"--corpus {data.corpus.name}: its characters {shortened(data.characters)} are not those of the "
            f"checkpoint, {shortened(model.characters)}; give the corpus that it was trained on"
        )
    if data.corpus.sha256 != sha256:
        console.print(f"note: the checkpoint was trained on another corpus, {printable(name)}")
    require_batch_norm(model.network, options.statistics)
    wanted = STATISTICS if options.statistics == "all" else (options.statistics,)
    print_table(console, {name: evaluate_splits(model.network, data.splits, name) for name in wanted})
    if options.statistics == "all":
        print_lags(console, lags(model.network, measure(model.network, Chunks(data.splits["train"]), model.device)))
