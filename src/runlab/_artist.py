"""Draws figures in a process of its own, so that a run neither imports matplotlib nor waits for its figures."""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from runlab._drawing import Picture, draw


class Artist:
    """A process that draws figures one after the other; the caller closes it."""

    def __init__(self) -> None:
        path = [entry for entry in sys.path if isinstance(entry, str)]
        # Not by PYTHONPATH, before which Python would look for modules in the current folder.
        code = f"import sys; sys.path[:] = {path!r}; from runlab._artist import serve; serve()"
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        # In a session of its own, where Ctrl-C does not reach it: an interrupted run has figures, too.
        self._process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **pipes)
        self._requests: SimpleQueue[tuple[bytes, Future[Picture]] | None] = SimpleQueue()
        threading.Thread(target=self._ask, daemon=True).start()

    def draw(self, function: Callable[..., Any], *args: Any, name: str = "") -> "Future[Picture]":
        """Begins to draw, as `runlab.draw` does; raises pickle's exceptions if it cannot be sent."""
        if getattr(function, "__module__", None) == "__main__":
            raise pickle.PicklingError("the process that draws has another main module")
        picture: Future[Picture] = Future()
        self._requests.put((pickle.dumps((function, args, name)), picture))
        return picture

    def close(self) -> None:
        """Kills the process, even while it draws."""
        self._process.kill()
        self._process.wait()
        self._requests.put(None)

    def _ask(self) -> None:
        to, answers = self._process.stdin, self._process.stdout
        assert to is not None
        assert answers is not None
        while (request := self._requests.get()) is not None:
            question, picture = request
            try:
                pickle.dump(question, to)
                to.flush()
                answer = pickle.load(answers)
            except Exception as error:  # the process has ended
                answer = error
            picture.set_exception(answer) if isinstance(answer, Exception) else picture.set_result(answer)
        for pipe in (to, answers):
            with suppress(OSError):
                pipe.close()


def serve() -> None:
    """Draws what is asked for on standard input, until that is closed."""
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
