#!/usr/bin/env python3
"""Compares recipes over several seeds: `python scripts/compare.py --help`."""

from pathlib import Path

from ngram_mlp.cli.compare import main

if __name__ == "__main__":
    main(train_script=Path(__file__).with_name("train.py"))
