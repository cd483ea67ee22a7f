"""The script whose runs are compared and searched, and the server that their processes are forked from."""

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
    """A LightningCLI script that trains a run, and resumes one by `--resume FOLDER`.

    It takes `--config`, `--seed_everything`, `--runs_dir` and `--name`, and leaves in its folder what a run of this
    project does.
    """

    path: Path
    options: tuple[str, ...] = ()  # of every run, before its own
    preload: str | None = None  # a module that imports what a training needs, before processes are forked


def cores() -> int:
    """Returns how many cores this process may use: a job on a shared machine may have fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_server(script: Script) -> Any:
    """Returns what makes processes: on Linux forked from one that has imported what a training needs.

    Called first of all, that one imports while this one goes on. Libraries of macOS are not fork-safe.
    """
    if sys.stdin is None:  # it was closed, and a pipe to the server would take its place
        os.open(os.devnull, os.O_RDONLY)
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([script.preload] if script.preload else [])
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the server, as Ctrl-C is for this process alone
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, handler)
    return server
