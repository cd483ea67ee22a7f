"""`ngram-mlp search`: looks for the best recipe in a space, and tests whether it beats the recipe it started from."""

from collections.abc import Sequence

from ngram_mlp.cli.compare import TRAINING
from runlab import search_command


def main(args: Sequence[str] | None = None) -> None:
    """Searches, or resumes a search."""
    search_command(TRAINING, args)
