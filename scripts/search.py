#!/usr/bin/env python3
"""Finds the best recipe of a space: `python scripts/search.py --help`."""

from pathlib import Path

if __name__ == "__main__":  # and not in the processes of its runs
    from forking import start_server

    start_server()  # before the imports that take long

    from ngram_mlp.cli.search import main

    main(train_script=Path(__file__).with_name("train.py"))
