"""Represents a run of a study or search: the options of `train.py`, and the folder of its attempts."""

import json
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runlab._files import LAST, finished_at, versions
from runlab._lock import Occupied, alone_in

LAST_SECONDS = 30  # allowed for a run to end after its pool was killed


@dataclass(frozen=True)
class Run:
    """One call of `train.py`, and any further calls that resume it."""

    folder: Path  # the parent of the folders `version_N` of its attempts
    label: str  # for the progress bar
    options: tuple[str, ...]  # of `train.py`, without --name and --runs_dir

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of the next call of `train.py`."""
        if begun := [path for path in self.versions if (path / LAST).exists()]:
            return ("--resume", str(begun[-1]))
        return (*self.options, "--runs_dir", str(self.folder.parent), "--name", self.folder.name)

    @property
    def versions(self) -> list[Path]:
        """The folders of its attempts, the newest last."""
        return [self.folder / f"version_{number}" for number in sorted(versions(self.folder))]

    @property
    def finished(self) -> Path | None:
        """The folder that holds its result; None before it has one."""
        return next((path for path in self.versions if finished_at(path) is not None), None)

    @property
    def result(self) -> dict[str, Any]:
        """The content of a finished run's metrics.json."""
        assert self.finished is not None
        content: dict[str, Any] = json.loads((self.finished / "metrics.json").read_text(encoding="utf-8"))
        return content

    def measured(self, metric: str) -> float:
        """Returns a metric of a finished run, such as `val/loss`."""
        split, quantity = metric.split("/")
        return float(self.result[split][quantity])

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def last_line(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n") if self.log.exists() else []
        return next((line for line in reversed(lines) if line.strip()), "no output")

    def lock(self) -> ExitStack | None:
        """Returns a lock on the run, to be closed after training; None if another process is training it.

        If the run's pool was killed, waits up to LAST_SECONDS for the run to save its state and end.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as lock, suppress(Occupied):
            lock.enter_context(alone_in(self.folder))
            deadline = time.monotonic() + LAST_SECONDS
            while any(map(_is_locked, self.versions)):
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.05)
            return lock.pop_all()
        return None


def _is_locked(folder: Path) -> bool:
    try:
        with alone_in(folder):
            return False
    except Occupied:
        return True
