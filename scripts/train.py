#!/usr/bin/env python3
"""Trains a model: `python scripts/train.py --help`."""

from pathlib import Path

from runlab import quick_start

if __name__ == "__main__":
    quick_start()
    from ngram_mlp.cli.train import main

    main(default_config=Path(__file__).resolve().parents[1] / "configs" / "default.yaml")
