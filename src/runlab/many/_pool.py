"""Trains runs in processes, one for each run.

On Linux they are forked from a server that has imported everything: starting a new process would take longer than
20,000 updates. A killed run does not affect the others.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from runlab._channel import watched_by
from runlab.many._run import Run
from runlab.many._script import Script, cores, start_server

R = TypeVar("R", bound=Run)

# Ctrl-C, and the signals by which a cluster ends a job; Windows has no SIGHUP.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(BaseException):
    """The pool was stopped, so this run was interrupted or not begun. Leaving the pool raises the reason."""


class Pool:
    """Trains runs, each in its own process, for the threads that call `train`; use it as a context manager.

    A signal or `stop` ends the runs, which first save their state and can be resumed. A second one kills them.

    Args:
        script: trains the runs.
        threads: the maximum for each run.
    """

    def __init__(self, script: Script, threads: int = 1) -> None:
        self._script = script
        self._threads = threads
        self._server = start_server(script)
        self._running: dict[Run, BaseProcess] = {}
        self._reason: BaseException | None = None
        self._lock = threading.RLock()  # for the two above, and because `multiprocessing` polls all children in `start`
        self._handlers = ExitStack()

    def __enter__(self) -> "Pool":
        for number in (one for one in SIGNALS if signal.getsignal(one) != signal.SIG_IGN):  # as nohup has it
            self._handlers.callback(signal.signal, number, signal.signal(number, self._on_signal))
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.close()
        if self._reason is not None:
            raise self._reason from self._reason.__cause__

    @property
    def running(self) -> list[Run]:
        with self._lock:
            return list(self._running)

    def stop(self, reason: BaseException) -> None:
        """Ends the runs and starts no others; leaving the pool raises the first reason."""
        with self._lock:
            for process in self._running.values():
                process.terminate() if self._reason is None else process.kill()
            self._reason = self._reason or reason

    def refuse_if_stopped(self) -> None:
        """Raises Stopped if the pool was stopped."""
        if self._reason is not None:
            raise Stopped

    def train(self, run: Run, listen: Callable[[Any], bool] | None = None) -> int | None:
        """Trains or resumes a run, and returns its exit status, which is negative if a signal killed it.

        Returns None if another process is training the run or has finished it.

        Args:
            run: the run to train.
            listen: called with each message of a watched run (`runlab.Supervised`); returns whether it may continue.

        Raises:
            Stopped: the pool was stopped.
        """
        self.refuse_if_stopped()
        if (lock := run.lock()) is None:
            return None
        with lock:
            if run.finished is not None:
                return None
            ours, its = self._server.Pipe() if listen else (None, None)
            process = self._start(run, its)
            try:
                if listen is None or ours is None:
                    wait([process.sentinel])
                else:
                    _answer(process, ours, listen)
            finally:
                self._end(run, ours)
            if self._reason is not None and run.finished is None:
                raise Stopped
            return process.exitcode

    def _start(self, run: Run, connection: Connection | None) -> BaseProcess:
        arguments = (self._script.path, run.arguments, run.log, dict(os.environ), self._threads, connection)
        process: BaseProcess = self._server.Process(target=_train, args=arguments)
        with self._lock:
            if self._reason is not None:
                raise Stopped
            process.start()
            self._running[run] = process
            if self._reason is not None:  # a signal came in the meantime
                process.terminate()
        if connection is not None:
            connection.close()  # so that ours reaches its end when the process ends
        return process

    def _end(self, run: Run, connection: Connection | None) -> None:
        """Waits for a process to end; terminates it first if it still runs because its listener failed."""
        process = self._running[run]
        if connection is not None:
            connection.close()  # the process may be waiting for it
        if not wait([process.sentinel], 0):
            process.terminate()
            wait([process.sentinel])
        with self._lock:
            process.join()
            del self._running[run]

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.stop(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number))


def display() -> Progress:
    """Returns a progress bar with the number of finished runs, the times, and the task's description."""
    words = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True))
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), words)
    return Progress(*columns, expand=True)


def train_all(script: Script, runs: Sequence[R], jobs: int) -> list[R]:
    """Trains the runs and shows the progress; returns the ones it trained, as other calls may train some.

    On an interruption the runs save their state, and the next call resumes them.
    """
    jobs = max(1, min(jobs, len(runs)))
    with Pool(script, max(1, cores() // jobs)) as pool, display() as progress, ThreadPoolExecutor(jobs) as threads:
        task = progress.add_task("", total=len(runs))

        def train(run: R) -> bool:
            progress.update(task, description=", ".join([*(one.label for one in pool.running), run.label]))
            status = pool.train(run)
            progress.update(task, advance=1, description=", ".join(one.label for one in pool.running))
            return status is not None

        return [run for run, trained in zip(runs, threads.map(train, runs), strict=True) if trained]


def _answer(process: BaseProcess, connection: Connection, listen: Callable[[Any], bool]) -> None:
    """Answers the messages of a process until it has ended."""
    while connection in wait([process.sentinel, connection]):
        try:
            message = connection.recv()
        except (EOFError, OSError):
            break
        answer = listen(message)
        with suppress(OSError):  # the process may have ended
            connection.send(answer)
    wait([process.sentinel])


def _train(
    path: Path,
    arguments: Sequence[str],
    log: Path,
    environment: dict[str, str],
    threads: int,
    connection: Connection | None,
) -> None:
    """Runs the script as a separate command: with its own arguments, its output in a file, and empty input."""
    if hasattr(os, "setsid"):
        os.setsid()  # a new session, so that Ctrl-C reaches only the pool, which ends the runs cleanly
    with log.open("wb") as output, open(os.devnull, "rb") as nothing:
        for descriptor, file in enumerate((nothing, output, output)):
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    if threads == 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "torch" in sys.modules:  # the server set one thread; if more are allowed, the run finds out whether they pay
        sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS", str(threads)).split(",")[0]))
    sys.argv = [str(path), *arguments]
    watched_by(connection)
    if (pool := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(pool.sentinel,), daemon=True).start()
    runpy.run_path(str(path), run_name="__main__")


def _end_with(pool: int) -> None:
    """Waits for the pool's process to end, which means that it was killed, and ends this one cleanly by SIGTERM."""
    wait([pool])
    signal.raise_signal(signal.SIGTERM)  # `os.kill` would end it at once on Windows
