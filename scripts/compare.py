#!/usr/bin/env python3
"""Compares recipes over several seeds: `python scripts/compare.py --help`."""

from pathlib import Path

from runlab import Script, compare

if __name__ == "__main__":  # not in the processes of its runs
    train = Path(__file__).with_name("train.py")
    compare(Script(train, ("--observe.every_n_updates", "off"), "ngram_mlp.cli.server"))
