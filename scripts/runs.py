#!/usr/bin/env python3
"""Lists runs with their differences and results: `python scripts/runs.py --help`."""

from runlab import list_runs

if __name__ == "__main__":
    list_runs()
