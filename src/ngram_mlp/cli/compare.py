"""`scripts/compare.py`: recipes trained with several seeds, side by side, and compared with error bars."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
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
from ngram_mlp.cli.study import Run, part, plan, refuse_another_study
from ngram_mlp.cli.study_report import write_report
from ngram_mlp.errors import require_at_least

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
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="Runs at a time. (default: one for each core)")
    parser.add_argument("--shard", metavar="K/N", help="Only the K-th of N parts of the runs, without the report.")
    options, overrides = parser.parse_known_args(args)
    require_at_least(1, {"--seeds": options.seeds, "--jobs": options.jobs})
    folder = Path(options.runs_dir, "compare", options.name)
    runs = list(plan(folder, options.configs, options.grid, range(1, options.seeds + 1), overrides))
    refuse_another_study(folder, runs)
    mine = runs if options.shard is None else part(runs, options.shard)
    failures = _train(train_script, [run for run in mine if run.finished is None], options.jobs)
    console = open_console()
    for run in failures:
        console.print(f"failed: {run.recipe}, seed {run.seed}: {run.last_line}; all of it in {run.log}")
    if options.shard is None:
        words = ["python", "scripts/compare.py", *(sys.argv[1:] if args is None else args)]
        write_report(folder, runs, failures, words, console)
    if failures:
        raise SystemExit(1)


def _train(train_script: Path, runs: Sequence[Run], jobs: int) -> list[Run]:
    """Trains the runs, so many at a time; returns those that failed."""
    waiting, failures = list(runs), []
    running: dict[Run, subprocess.Popen[bytes]] = {}
    columns = (
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
    )
    with Progress(*columns, expand=True) as progress:
        task = progress.add_task("", total=len(runs))
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.pop(0)
                    running[run] = _start(train_script, run, max(1, (os.cpu_count() or 1) // jobs))
                progress.update(task, description=", ".join(f"{run.recipe} seed {run.seed}" for run in running))
                time.sleep(0.2)
                for run in [run for run, process in running.items() if process.poll() is not None]:
                    if running.pop(run).returncode != 0:
                        failures.append(run)
                    progress.advance(task)
            progress.update(task, description="")
        finally:  # interrupted, the runs save their state, and the next call goes on with them
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    return failures


def _start(train_script: Path, run: Run, threads: int) -> "subprocess.Popen[bytes]":
    """A process that trains a run, or goes on with it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    begun = [path for path in run.versions if (path / "checkpoints" / "last.ckpt").exists()]
    where = ("--runs_dir", str(run.folder.parent), "--name", run.folder.name)
    arguments = ("--resume", str(begun[-1])) if begun else (*run.arguments, *where)
    with run.log.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(train_script), *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others in order
        )
