#!/usr/bin/env python3
"""Samples words from a checkpoint: `python scripts/sample.py --help`."""

from ngram_mlp.cli.sample import main

if __name__ == "__main__":
    main()
