"""Signals while native code runs."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What programs handle; to ask for all sixty would cost more than an update.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGCHLD", "SIGBREAK")
HANDLED = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Abandoned(BaseException):
    """A signal asks the process to end, and what takes seconds is given up for that."""


@contextmanager
def deferring_signals(interrupts: bool = True) -> Iterator[None]:
    """Within, handlers of signals wait, as weights and accounts do not agree, or what they do would be traced.

    What is abandoned within ends without an exception, and then the handlers are called.

    Args:
        interrupts: whether a first Ctrl-C waits as well; a second one does not.
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
    wait.heard = heard  # type: ignore[attr-defined]  # for `abandoned_by_signals`
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
    """Within `deferring_signals`: a signal that asks the process to end, now or before, raises an Abandoned."""
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
