"""Defers signals while native code runs."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# The signals that programs handle. Querying all sixty would cost more than an update.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGCHLD", "SIGBREAK")
HANDLED = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Abandoned(BaseException):
    """Raised to abandon work that takes seconds when a signal asks the process to end."""


@contextmanager
def deferring_signals(interrupts: bool = True) -> Iterator[None]:
    """Defers signal handlers within the block, where weights and counters disagree or a handler would be traced.

    An `Abandoned` raised in the block ends it without an exception. The deferred handlers run after the block.

    Args:
        interrupts: whether a first Ctrl-C is deferred too; a second one raises a KeyboardInterrupt at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    if not interrupts:
        handlers.pop(signal.SIGINT, None)

    def wait(number: int, _: Any) -> None:
        if number == signal.SIGINT and number in heard:
            raise KeyboardInterrupt
        heard.append(number)

    heard: list[int] = []
    wait.heard = heard  # type: ignore[attr-defined]  # read by `abandoned_by_signals`
    for number in handlers:
        signal.signal(number, wait)
    try:
        yield
    except Abandoned:
        pass
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for each in heard:
        signal.raise_signal(each)


@contextmanager
def abandoned_by_signals() -> Iterator[None]:
    """Raises an Abandoned within `deferring_signals` when SIGTERM or SIGHUP arrives, or if one has arrived before."""
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in ENDING}
    waiting = {number: handler for number, handler in handlers.items() if hasattr(handler, "heard")}

    def abandon(number: int, frame: Any) -> None:
        waiting[number](number, frame)
        raise Abandoned

    for number, wait in waiting.items():
        if number in wait.heard:
            raise Abandoned
        signal.signal(number, abandon)
    try:
        yield
    finally:
        for number, wait in waiting.items():
            signal.signal(number, wait)
