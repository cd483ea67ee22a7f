"""`ngram-mlp search`: searches a space for a recipe better than the one to start from."""

from collections.abc import Sequence

from ngram_mlp.cli.compare import TRAINING
from runlab import search_command


def main(args: Sequence[str] | None = None) -> None:
    """Starts or resumes a search."""
    search_command(TRAINING, args)
