"""A pool of processes, each of which trains one run of a study.

On Linux they are forked from a server, which has imported everything once: starting a process anew would take longer
than 20,000 updates. A run that is killed kills nothing else.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from runlab._channel import watched_by
from runlab.many._run import Run
from runlab.many._script import Script, cores, start_server

R = TypeVar("R", bound=Run)

# By which a cluster ends a job; Windows has one of them.
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass(frozen=True)
class Ended:
    """A run's process has ended; the status is negative where a signal has ended it."""

    status: int


@dataclass(frozen=True)
class _Process:
    process: BaseProcess
    lock: ExitStack
    connection: Connection | None


class Pool:
    """Trains runs, each in a process of its own; use it as a context.

    Left early, also by SIGTERM or SIGHUP, it has the runs save their state, and whoever begins them next resumes them.

    Args:
        script: which trains.
        jobs: how many runs it may train at a time.
        threads: of each run, at most.
    """

    def __init__(self, script: Script, jobs: int, threads: int = 1) -> None:
        self._script = script
        self._jobs = jobs
        self._threads = threads
        self._server = start_server(script)
        self._running: dict[Run, _Process] = {}
        self._handlers = ExitStack()

    def __enter__(self) -> "Pool":
        for number in SIGNALS:
            self._handlers.callback(signal.signal, number, signal.signal(number, _stop))
        return self

    def __exit__(self, *_: object) -> None:
        with self._handlers:
            for one in self._running.values():
                if one.connection is not None:
                    one.connection.close()  # which a run may be waiting at
                one.process.terminate()
            for one in self._running.values():
                _close(one)

    @property
    def running(self) -> list[Run]:
        return list(self._running)

    @property
    def has_room(self) -> bool:
        return len(self._running) < self._jobs

    def begin(self, run: Run, *, watched: bool = False) -> bool:
        """Starts a run, or resumes it; False if another process trains it or has done so.

        A watched run tells what becomes of it (`runlab.Supervised`), and waits for an answer each time.
        """
        if (lock := run.lock()) is None:
            return False
        if run.finished is not None:
            lock.close()
            return False
        ours, its = self._server.Pipe() if watched else (None, None)
        arguments = (self._script.path, run.arguments, run.log, dict(os.environ), self._threads, its)
        process = self._server.Process(target=_train, args=arguments)
        process.start()
        if its is not None:
            its.close()  # so that ours is at its end when the process is
        self._running[run] = _Process(process, lock, ours)
        return True

    def wait(self, seconds: float) -> list[tuple[Run, Any]]:
        """What happened, by run: Ended, or what a watched run told; empty where nothing did within the time."""
        sources = [one.process.sentinel for one in self._running.values()]
        wait([*sources, *(one.connection for one in self._running.values() if one.connection)], seconds)
        news: list[tuple[Run, Any]] = []
        for run, one in list(self._running.items()):
            has_ended = not one.process.is_alive()
            news += [(run, message) for message in _messages(one.connection)]
            if has_ended:
                news.append((run, Ended(_close(self._running.pop(run)))))
        return news

    def answer(self, run: Run, go_on: bool) -> None:
        """Tells a watched run that waits for an answer whether it may go on."""
        connection = self._running[run].connection if run in self._running else None
        with suppress(OSError):  # where the run is gone
            if connection is not None:
                connection.send(go_on)


def display() -> Progress:
    """Shows how many of the runs are done, the time, and what the task's description says."""
    words = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True))
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), words)
    return Progress(*columns, expand=True)


def train_all(script: Script, runs: Sequence[R], jobs: int) -> list[R]:
    """Trains the runs and shows how far it is; returns those that were trained, as other calls may have some of them.

    Interrupted, it has the runs save their state, and the next call resumes them.
    """
    waiting, trained = list(runs), list[R]()
    threads = max(1, cores() // max(1, min(jobs, len(runs))))
    with Pool(script, jobs, threads) as pool, display() as progress:
        task = progress.add_task("", total=len(runs))
        while waiting or pool.running:
            while waiting and pool.has_room:
                run = waiting.pop(0)
                if pool.begin(run):
                    trained.append(run)
            training = ", ".join(run.label for run in pool.running)
            progress.update(task, completed=len(runs) - len(waiting) - len(pool.running), description=training)
            if pool.running:
                pool.wait(1)
        progress.update(task, completed=len(runs), description="")
    return trained


def _stop(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _messages(connection: Connection | None) -> list[Any]:
    """What has been sent and not been read yet."""
    found = []
    with suppress(EOFError, OSError):  # the process has ended
        while connection is not None and connection.poll():
            found.append(connection.recv())
    return found


def _close(one: _Process) -> int:
    """Waits for the process to end, and lets go of its run; its status."""
    one.process.join()
    one.lock.close()
    if one.connection is not None:
        one.connection.close()
    return one.process.exitcode or 0


def _train(
    path: Path,
    arguments: Sequence[str],
    log: Path,
    environment: dict[str, str],
    threads: int,
    connection: Connection | None,
) -> None:
    """Runs the script as a command of its own would: with its arguments, its output in a file, nothing to read."""
    if hasattr(os, "setsid"):
        os.setsid()  # in a session of its own, so that Ctrl-C reaches the pool alone, which ends the others in order
    with log.open("wb") as output, open(os.devnull, "rb") as nothing:
        for descriptor, file in enumerate((nothing, output, output)):
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    if threads == 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "torch" in sys.modules:  # the server had one; where there may be more, the run finds out whether they pay
        sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS", str(threads)).split(",")[0]))
    sys.argv = [str(path), *arguments]
    watched_by(connection)
    if (pool := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(pool.sentinel,), daemon=True).start()
    runpy.run_path(str(path), run_name="__main__")


def _end_with(pool: int) -> None:
    """Ends this process in order, as Ctrl-C would, when that of the pool has ended, which was killed then."""
    wait([pool])
    signal.raise_signal(signal.SIGTERM)  # `os.kill` would end it at once on Windows
