#!/usr/bin/env python3
"""Finds the best recipe of a space: `python scripts/search.py --help`."""

import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver
from pathlib import Path

if __name__ == "__main__":  # and not in the processes of its runs
    if sys.stdin is None:  # it was closed, and a pipe to the server would take its place
        os.open(os.devnull, os.O_RDONLY)
    if sys.platform == "linux":
        multiprocessing.set_forkserver_preload(["ngram_mlp.cli.server"])
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as `studies.pool` does
        forkserver.ensure_running()  # imports what the runs need while this process imports what it needs itself
        signal.signal(signal.SIGINT, handler)

    from ngram_mlp.cli.search import main

    main(train_script=Path(__file__).with_name("train.py"))
