"""Starts the process from which runs are forked: it imports what they need while the caller imports what it needs."""

import multiprocessing
import signal
from multiprocessing import forkserver


def start_server() -> None:
    """Starts it where the system can fork; Ctrl-C reaches the caller alone, which ends the runs in order."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.set_forkserver_preload(["ngram_mlp.cli.server"])
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the server inherits
        forkserver.ensure_running()
        signal.signal(signal.SIGINT, handler)
