"""A pool of processes, each of which trains one run of a study.

They are forked from a server, which has imported everything once: starting a process anew would take longer than
20,000 updates. A run that is killed kills nothing else.
"""

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from ngram_mlp.errors import UserError
from ngram_mlp.runs.files import LAST, alone_in
from ngram_mlp.studies.study import Run


def cores() -> int:
    """How many cores this process may use: a job on a shared machine may have fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train_all(train_script: Path, runs: Sequence[Run], jobs: int) -> list[Run]:
    """Trains the runs, `jobs` at a time; returns those that were trained, as other calls may have some of them.

    Interrupted, also by SIGTERM or SIGHUP, it has the runs save their state, and the next call resumes them.
    """
    waiting, trained = list(runs), []
    running: dict[Run, tuple[BaseProcess, ExitStack]] = {}
    server, threads = _server(), max(1, cores() // max(1, min(jobs, len(runs))))
    names = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True))
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), names)
    with ExitStack() as handlers, Progress(*columns, expand=True) as progress:
        for number in (signal.SIGTERM, signal.SIGHUP):  # by which a cluster ends a job
            handlers.callback(signal.signal, number, signal.signal(number, _stop))
        task = progress.add_task("", total=len(runs))
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.pop(0)
                    if (lock := _claim(run)) is not None:
                        running[run] = _start(server, train_script, run, threads), lock
                        trained.append(run)
                training = ", ".join(f"{run.recipe} seed {run.seed}" for run in running)
                progress.update(task, completed=len(runs) - len(waiting) - len(running), description=training)
                wait([process.sentinel for process, _ in running.values()], timeout=1)
                for run in [run for run, (process, _) in running.items() if not process.is_alive()]:
                    running.pop(run)[1].close()
            progress.update(task, completed=len(runs), description="")
        finally:
            for process, _ in running.values():
                process.terminate()
            for process, lock in running.values():
                process.join()
                lock.close()
    return trained


def _stop(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _claim(run: Run) -> ExitStack | None:
    """What keeps other calls from training a run until it is closed; None if one of them trains it or has done so."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as lock, suppress(UserError):
        lock.enter_context(alone_in(run.folder))
        if run.finished is None:
            return lock.pop_all()
    return None


def _server() -> Any:
    """Makes processes that have imported what a training needs, where the system can fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["ngram_mlp.cli.server"])
    return server


def _start(server: Any, train_script: Path, run: Run, threads: int) -> BaseProcess:
    """A process that trains a run, or resumes it."""
    begun = [path for path in run.versions if (path / LAST).exists()]
    arguments = ("--resume", str(begun[-1])) if begun else run.arguments
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    process: BaseProcess = server.Process(target=_train, args=(train_script, arguments, run.log, environment))
    process.start()
    return process


def _train(train_script: Path, arguments: Sequence[str], log: Path, environment: dict[str, str]) -> None:
    """Runs the script as a command of its own would: with its arguments, its output in a file, nothing to read."""
    os.setsid()  # in a session of its own, so that Ctrl-C reaches the pool alone, which ends the others in order
    with log.open("wb") as output, open(os.devnull, "rb") as nothing:
        for descriptor, file in enumerate((nothing, output, output)):
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"].split(",")[0]))  # the server had its own number
    sys.argv = [str(train_script), *arguments]
    runpy.run_path(str(train_script), run_name="__main__")
