"""Signals while native code runs."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferring_interrupts() -> Iterator[None]:
    """Within, the first Ctrl-C waits, as weights and accounts, or the data, would not agree; the second does not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before is None:  # not Python's
        yield
        return

    def wait(number: int, _: Any) -> None:
        if heard:
            raise KeyboardInterrupt
        heard.append(number)

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        signal.raise_signal(signal.SIGINT)
