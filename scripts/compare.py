#!/usr/bin/env python3
"""Compares recipes over several seeds: `python scripts/compare.py --help`."""

from pathlib import Path

if __name__ == "__main__":  # and not in the processes of its runs
    from forking import start_server

    start_server()  # before the imports that take long

    from ngram_mlp.cli.compare import main

    main(train_script=Path(__file__).with_name("train.py"))
