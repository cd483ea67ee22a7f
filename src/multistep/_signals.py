"""Signals while native code runs."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What programs handle; to ask for all sixty would cost more than an update.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGCHLD", "SIGBREAK")
HANDLED = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


@contextmanager
def deferring_signals(interrupts: bool = True) -> Iterator[None]:
    """Within, handlers of signals wait, as weights and accounts do not agree, or what they do would be traced.

    Args:
        interrupts: whether a first Ctrl-C waits as well; a second one does not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    if not interrupts:
        handlers.pop(signal.SIGINT, None)

    def wait(number: int, _: Any) -> None:
        if number == signal.SIGINT and number in heard:
            raise KeyboardInterrupt
        heard.append(number)

    for number in handlers:
        signal.signal(number, wait)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for each in heard:
        signal.raise_signal(each)
