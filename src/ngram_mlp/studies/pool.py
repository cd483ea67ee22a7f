"""A pool of processes, each of which trains one run of a study."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from ngram_mlp.errors import UserError
from ngram_mlp.runs.files import LAST, alone_in
from ngram_mlp.studies.study import Run


def cores() -> int:
    """How many cores this process may use: a job on a shared machine may have fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def train_all(train_script: Path, runs: Sequence[Run], jobs: int) -> list[Run]:
    """Trains the runs, `jobs` at a time; returns those that were trained, as other calls may have some of them.

    Interrupted, also by SIGTERM or SIGHUP, it has the runs save their state, and the next call resumes them.
    """
    waiting, trained = list(runs), []
    running: dict[Run, tuple[subprocess.Popen[bytes], ExitStack]] = {}
    threads = max(1, cores() // max(1, min(jobs, len(runs))))
    with _signals_raise(), _progress() as progress:
        task = progress.add_task("", total=len(runs))
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.pop(0)
                    if (lock := _claim(run)) is not None:
                        running[run] = _start(train_script, run, threads), lock
                        trained.append(run)
                names = ", ".join(f"{run.recipe} seed {run.seed}" for run in running)
                progress.update(task, completed=len(runs) - len(waiting) - len(running), description=names)
                time.sleep(0.2)
                for run in [run for run, (process, _) in running.items() if process.poll() is not None]:
                    running.pop(run)[1].close()
            progress.update(task, completed=len(runs), description="")
        finally:
            for process, _ in running.values():
                process.terminate()
            for process, lock in running.values():
                process.wait()
                lock.close()
    return trained


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Inside the block, the signals that end a job on a cluster are exceptions, so that its runs are ended in order."""

    def stop(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _progress() -> Progress:
    """One display for all runs: how many are done, the time, and which are in training."""
    return Progress(
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        expand=True,
    )


def _claim(run: Run) -> ExitStack | None:
    """What keeps other calls from training a run until it is closed; None if one of them does or has done so."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as lock:
        try:
            lock.enter_context(alone_in(run.folder))
        except UserError:
            return None
        return lock.pop_all() if run.finished is None else None


def _start(train_script: Path, run: Run, threads: int) -> "subprocess.Popen[bytes]":
    """A process that trains a run, or resumes it."""
    begun = [path for path in run.versions if (path / LAST).exists()]
    arguments = ("--resume", str(begun[-1])) if begun else run.arguments
    with run.log.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(train_script), *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={"OMP_NUM_THREADS": str(threads), **os.environ},
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others in order
        )
