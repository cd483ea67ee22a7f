"""`ngram-mlp runs`: lists runs with their differences and results."""

from collections.abc import Sequence

from runlab import list_runs


def main(args: Sequence[str] | None = None) -> None:
    """Prints the table of all runs below a folder."""
    list_runs(args)
