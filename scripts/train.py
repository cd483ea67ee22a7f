#!/usr/bin/env python3
"""Trains a model: `python scripts/train.py --help`."""

from pathlib import Path

from ngram_mlp.cli.train import main

if __name__ == "__main__":
    main(default_config=Path(__file__).resolve().parents[1] / "configs" / "default.yaml")
