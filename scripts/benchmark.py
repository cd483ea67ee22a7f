#!/usr/bin/env python3
"""Times this package against its peers: `python scripts/benchmark.py --help`."""

from pathlib import Path

from ngram_mlp.cli.benchmark import main

if __name__ == "__main__":
    main(benchmarks=Path(__file__).resolve().parents[1] / "benchmarks")
