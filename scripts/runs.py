#!/usr/bin/env python3
"""Lists runs, what differs between them, and what came of each: `python scripts/runs.py --help`."""

from runlab import list_runs

if __name__ == "__main__":
    list_runs()
