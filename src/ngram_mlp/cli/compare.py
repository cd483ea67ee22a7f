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
from ngram_mlp.cli.study import Run, part, plan, refuse_another_study
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
    folder = Path(options.runs_dir, "compare", options.name)
    runs = list(plan(folder, options.configs, options.grid, range(1, options.seeds + 1), overrides))
    refuse_another_study(folder, runs)
    mine = runs if options.shard is None else part(runs, options.shard)
    with _stopped_by_signals():
        failures, elsewhere = _train(train_script, [run for run in mine if run.finished is None], options.jobs)
    console = open_console()
    for run in failures:
        console.print(f"failed: {run.recipe}, seed {run.seed}: {run.last_line}; all of it in {run.log}")
    for run in elsewhere:
        console.print(f"left out: {run.recipe}, seed {run.seed}: another call trains it")
    if options.shard is None:
        words = ["python", "scripts/compare.py", *(sys.argv[1:] if args is None else args)]
        write_report(folder, runs, failures, words, console)
    if failures:
        raise SystemExit(1)


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


def _train(train_script: Path, runs: Sequence[Run], jobs: int) -> tuple[list[Run], list[Run]]:
    """Trains the runs, so many at a time; returns those that failed, and those that another call trains."""
    waiting, failures, elsewhere = list(runs), [], []
    running: dict[Run, tuple[subprocess.Popen[bytes], ExitStack]] = {}
    threads = max(1, cores() // max(1, min(jobs, len(runs))))
    columns = (
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
    )
    with Progress(*columns, expand=True) as progress:
        task = progress.add_task("", total=len(runs))
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run, lock = waiting.pop(0), ExitStack()
                    run.folder.mkdir(parents=True, exist_ok=True)
                    try:
                        lock.enter_context(alone_in(run.folder))
                    except UserError:
                        elsewhere.append(run)
                        progress.advance(task)
                        continue
                    if run.finished is not None:  # by another call, since the list was made
                        lock.close()
                        progress.advance(task)
                        continue
                    running[run] = _start(train_script, run, threads), lock
                progress.update(task, description=", ".join(f"{run.recipe} seed {run.seed}" for run in running))
                time.sleep(0.2)
                for run in [run for run, (process, _) in running.items() if process.poll() is not None]:
                    running.pop(run)[1].close()
                    if run.finished is None:
                        failures.append(run)
                    progress.advance(task)
            progress.update(task, description="")
        finally:  # interrupted, the runs save their state, and the next call goes on with them
            for process, _ in running.values():
                process.terminate()
            for process, lock in running.values():
                process.wait()
                lock.close()
    return failures, elsewhere


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
