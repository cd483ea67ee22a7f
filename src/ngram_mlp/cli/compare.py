"""`ngram-mlp compare`: compares recipes over several seeds, with error bars."""

from collections.abc import Sequence

from ngram_mlp.places import PACKAGE
from runlab import Script, compare

# Snapshots serve to inspect a single run, so they are off unless an option asks for them.
TRAINING = Script(PACKAGE / "cli" / "train.py", ("--observe.every_n_updates", "off"), "ngram_mlp.cli.server")


def main(args: Sequence[str] | None = None) -> None:
    """Trains the missing runs of a study, and writes the report."""
    compare(TRAINING, args)
