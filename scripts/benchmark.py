#!/usr/bin/env python3
"""Times this package against its peers: `python scripts/benchmark.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers import main

if __name__ == "__main__":
    main()
