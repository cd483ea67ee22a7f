#!/usr/bin/env python3
"""Prints the losses of a checkpoint: `python scripts/evaluate.py --help`."""

from ngram_mlp.cli.evaluate import main

if __name__ == "__main__":
    main()
