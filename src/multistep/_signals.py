"""Signals while native code runs."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deferring_interrupts() -> Iterator[None]:
    """Within, Ctrl-C waits, as weights and accounts would not agree."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before is None:  # not Python's
        yield
        return
    signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        signal.raise_signal(signal.SIGINT)
