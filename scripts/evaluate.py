#!/usr/bin/env python3
"""Prints the losses of a checkpoint: `python scripts/evaluate.py --help`."""

from runlab import quick_start

if __name__ == "__main__":
    quick_start()
    from ngram_mlp.cli.evaluate import main

    main()
