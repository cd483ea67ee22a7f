#!/usr/bin/env python3
"""Samples words from a checkpoint: `python scripts/sample.py --help`."""

from runlab import quick_start

if __name__ == "__main__":
    quick_start()
    from ngram_mlp.cli.sample import main

    main()
