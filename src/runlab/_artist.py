"""Draws figures in a process of its own, so that a run neither imports matplotlib nor waits for its figures."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from runlab._drawing import Picture, draw


class Artist:
    """A process that draws figures one after the other; the caller closes it."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", "from runlab._artist import serve; serve()"]
        paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        # In a session of its own, where Ctrl-C does not reach it: an interrupted run has figures, too.
        self._process = subprocess.Popen(command, env=paths, start_new_session=True, **pipes)
        self._asking = ThreadPoolExecutor(1, "artist")

    def draw(self, function: Callable[..., Any], *args: Any, name: str = "") -> "Future[Picture]":
        """Begins to draw, as `runlab.draw` does; raises pickle's exceptions if it cannot be sent."""
        if getattr(function, "__module__", None) == "__main__":
            raise pickle.PicklingError("the process that draws has another main module")
        return self._asking.submit(self._ask, pickle.dumps((function, args, name)))

    def close(self) -> None:
        """Ends the process, whatever it draws."""
        self._asking.shutdown(wait=False, cancel_futures=True)
        self._process.kill()
        self._process.communicate()

    def _ask(self, request: bytes) -> Picture:
        pickle.dump(request, self._process.stdin)  # type: ignore[arg-type]
        self._process.stdin.flush()  # type: ignore[union-attr]
        answer = pickle.load(self._process.stdout)  # type: ignore[arg-type]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]


def serve() -> None:
    """Draws what comes through standard input, until it is closed."""
    if hasattr(os, "nice"):  # not on Windows
        os.nice(5)  # the run's threads wait for each other, and long if another process takes one's core
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # for what others print
    with suppress(Exception):
        draw(_nothing)  # imports matplotlib while the run trains
    with suppress(EOFError):
        while True:
            request = pickle.load(sys.stdin.buffer)
            try:
                function, args, name = pickle.loads(request)
                answer: Any = draw(function, *args, name=name)
            except Exception as error:
                answer = RuntimeError(f"{type(error).__name__}: {error}")
            pickle.dump(answer, answers)
            answers.flush()


def _nothing() -> Any:
    from matplotlib.figure import Figure

    return Figure((0.1, 0.1))
