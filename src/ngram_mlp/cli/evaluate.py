"""`scripts/evaluate.py`: the table of a checkpoint's losses."""

from collections.abc import Sequence

from rich.console import Console

from ngram_mlp.cli.command import Parser, command
from ngram_mlp.cli.report import evaluate_splits, print_table
from ngram_mlp.data import NGramDataModule
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
        "--model", type=type[LanguageModel] | None, default=None, help="The class of a variant of your own."
    )
    options = parser.parse_args(args)
    checkpoint = read_checkpoint(options.ckpt_path)
    model = load_model(checkpoint, options.model)
    name, sha256 = corpus_of(checkpoint)
    data = NGramDataModule(options.corpus or name, model.block_size, data_dir=options.data_dir)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    if data.characters != model.characters:
        raise UserError(
            f"--corpus {data.corpus.name}: its characters {shortened(data.characters)} are not those of the "
            f"checkpoint, {shortened(model.characters)}; give the corpus that it was trained on"
        )
    if data.corpus.sha256 != sha256:
        console.print(f"note: the checkpoint was trained on another corpus, {printable(name)}")
    print_table(console, evaluate_splits(model, data))
