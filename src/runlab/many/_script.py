"""Defines the script that studies and searches run, and starts the server that forks its processes."""

import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Script:
    """A LightningCLI script that trains a run, or resumes one by `--resume FOLDER`.

    It takes `--config`, `--seed_everything`, `--runs_dir` and `--name`, and leaves the same files as a run of this
    project.
    """

    path: Path
    options: tuple[str, ...] = ()  # for every run, before the run's own
    preload: str | None = None  # a module that does the imports of training before processes are forked


def cores() -> int:
    """Returns the number of cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_server(script: Script) -> Any:
    """Returns a multiprocessing context; on Linux it forks from a server that has done the imports of training.

    Call it early: the server imports while this process continues. Libraries of macOS are not fork-safe.
    """
    if sys.stdin is None:  # it is closed, and a pipe to the server would take its descriptor
        os.open(os.devnull, os.O_RDONLY)
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([script.preload] if script.preload else [])
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by the server: Ctrl-C is for this process alone
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, handler)
    return server
