#!/usr/bin/env python3
"""Finds the best recipe of a space: `python scripts/search.py --help`."""

from pathlib import Path

from runlab import Script, search_command

if __name__ == "__main__":  # not in the processes of its runs
    train = Path(__file__).with_name("train.py")
    search_command(Script(train, ("--observe.every_n_updates", "off"), "ngram_mlp.cli.server"))
