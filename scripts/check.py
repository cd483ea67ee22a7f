#!/usr/bin/env python3
"""Judges a network before its first update: `python scripts/check.py --help`."""

from pathlib import Path

from runlab import quick_start

if __name__ == "__main__":
    quick_start()
    from ngram_mlp.cli.check import main

    main(Path(__file__).resolve().parents[1] / "configs" / "default.yaml")
