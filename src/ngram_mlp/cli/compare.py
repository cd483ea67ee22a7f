"""`scripts/compare.py`: recipes trained with several seeds, side by side, and compared with error bars."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from ngram_mlp.cli.command import command, exit_with
from ngram_mlp.cli.console import open_console
from ngram_mlp.cli.machine import cores
from ngram_mlp.cli.run_folder import alone_in
from ngram_mlp.cli.study import Run, part, plan, record_recipes
from ngram_mlp.cli.study_report import write_report
from ngram_mlp.errors import UserError, require_at_least

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        exit_with(message)


@command
def main(train_script: Path, args: Sequence[str] | None = None) -> None:
    """Trains what is missing of a study and writes its report; exit status 1 if a run failed.

    Args:
        train_script: the script that trains one run.
        args: the command line, by default the process' own.
    """
    args = sys.argv[1:] if args is None else args
    options, overrides = _parse(args)
    folder = Path(options.runs_dir, "compare", options.name)
    runs = plan(folder, options.configs, options.grid, range(1, options.seeds + 1), overrides)
    record_recipes(folder, runs)
    mine = runs if options.shard is None else part(runs, options.shard)
    missing = [run for run in mine if run.finished is None]
    with _stopped_by_signals():
        trained = _train(train_script, missing, options.jobs)
    console = open_console()
    failures = [run for run in trained if run.finished is None]
    for run in failures:
        console.print(f"failed: {run.recipe}, seed {run.seed}: {run.last_line}; all of it in {run.log}")
    for run in missing:
        if run.finished is None and run not in trained:
            console.print(f"left out: {run.recipe}, seed {run.seed}: another call trains it")
    if options.shard is None:
        write_report(folder, runs, failures, ["python", "scripts/compare.py", *args], console)
    if failures:
        raise SystemExit(1)


def _parse(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of a study, and what is left: overrides for its runs."""
    parser = _Parser(
        description="Trains every recipe with every seed and compares the losses. All other options are overrides "
        "for every run, as train.py takes them. A study that was interrupted goes on where it stopped.",
        allow_abbrev=False,
    )
    parser.add_argument("configs", nargs="+", help="The recipes: YAML files, as for train.py --config.")
    parser.add_argument("--seeds", type=int, default=5, help="How many seeds: 1, 2, ... (default: 5)")
    parser.add_argument("--name", default="study", help="The study goes to RUNS_DIR/compare/NAME. (default: study)")
    parser.add_argument("--runs_dir", default="runs", help="The folder of all runs. (default: runs)")
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="OPTION=A,B",
        help="Crosses the recipes with these values of an option; may be given several times.",
    )
    parser.add_argument("--jobs", type=int, default=cores(), help="Runs at a time. (default: one for each core)")
    parser.add_argument("--shard", metavar="K/N", help="Only the K-th of N parts of the runs, without the report.")
    options, overrides = parser.parse_known_args(args)
    require_at_least(1, {"--seeds": options.seeds, "--jobs": options.jobs})
    return options, overrides


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Within it, what ends a job on a cluster is an exception, so that its runs are ended in order."""

    def stop(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _train(train_script: Path, runs: Sequence[Run], jobs: int) -> list[Run]:
    """Trains the runs, so many at a time; returns those that were trained, as other calls may have some of them."""
    waiting, trained = list(runs), []
    running: dict[Run, tuple[subprocess.Popen[bytes], ExitStack]] = {}
    threads = max(1, cores() // max(1, min(jobs, len(runs))))
    with _progress() as progress:
        task = progress.add_task("", total=len(runs))
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.pop(0)
                    if (lock := _claim(run)) is not None:
                        running[run] = _start(train_script, run, threads), lock
                        trained.append(run)
                names = ", ".join(f"{run.recipe} seed {run.seed}" for run in running)
                progress.update(task, completed=len(runs) - len(waiting) - len(running), description=names)
                time.sleep(0.2)
                for run in [run for run, (process, _) in running.items() if process.poll() is not None]:
                    running.pop(run)[1].close()
            progress.update(task, completed=len(runs), description="")
        finally:  # interrupted, the runs save their state, and the next call goes on with them
            for process, _ in running.values():
                process.terminate()
            for process, lock in running.values():
                process.wait()
                lock.close()
    return trained


def _progress() -> Progress:
    """One display for all runs: how many are done, the time, and which are in training."""
    return Progress(
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        expand=True,
    )


def _claim(run: Run) -> ExitStack | None:
    """What keeps other calls from training a run until it is closed; None if one of them does or has done so."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as lock:
        try:
            lock.enter_context(alone_in(run.folder))
        except UserError:
            return None
        return lock.pop_all() if run.finished is None else None


def _start(train_script: Path, run: Run, threads: int) -> "subprocess.Popen[bytes]":
    """A process that trains a run, or goes on with it."""
    begun = [path for path in run.versions if (path / "checkpoints" / "last.ckpt").exists()]
    arguments = ("--resume", str(begun[-1])) if begun else run.arguments
    with run.log.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(train_script), *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={"OMP_NUM_THREADS": str(threads), **os.environ},
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others in order
        )
