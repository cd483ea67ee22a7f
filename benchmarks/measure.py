"""Provides the clock that the peers share, and the words that they train on."""

import json
import math
import os
import time
from pathlib import Path

try:
    import resource
except ImportError:  # on Windows
    resource = None

PROJECT = Path(__file__).resolve().parents[1]


class Clock:
    """Measures updates from the first tick on; the time before it is start-up."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self._elsewhere = 0.0

    def tick(self, updates: int) -> None:
        """Notes that `updates` updates are done. Called rarely; the first call ends the start-up."""
        now = time.perf_counter() - self._elsewhere
        if self._first is None:
            self._first, self.startup = (now, updates), time.time() - _process_start()
        self._last = (now, updates)

    def leave_out(self, seconds: float) -> None:
        """Leaves out time spent on something that the other peers do not do."""
        self._elsewhere += seconds

    def report(self) -> None:
        """Prints the line that the benchmark reads."""
        assert self._first is not None
        microseconds = (self._last[0] - self._first[0]) / (self._last[1] - self._first[1]) * 1e6
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if resource else math.nan  # kB on Linux
        print(json.dumps({"microseconds": microseconds, "startup": self.startup, "memory": memory}))


def words() -> list[str]:
    """Returns the notebooks' words if the file is there, else the shipped sample."""
    names = PROJECT / "data" / "names.txt"
    sample = PROJECT / "src" / "ngram_mlp" / "data" / "sample_names.txt"
    return (names if names.exists() else sample).read_text(encoding="utf-8").splitlines()


def _process_start() -> float:
    """Returns the start time of this process in seconds since the epoch, which the benchmark passes on."""
    return float(os.environ["BENCHMARK_STARTED"])
