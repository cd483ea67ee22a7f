"""`scripts/compare.py`: recipes trained with several seeds, side by side, and compared with error bars."""

import argparse
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ngram_mlp.cli.command import command, exit_with
from ngram_mlp.cli.console import open_console
from ngram_mlp.cli.study_report import write_report
from ngram_mlp.errors import UserError, require_at_least

__all__ = ["main"]


@dataclass(frozen=True)
class Run:
    """One recipe with one seed.

    Args:
        recipe: its label, which names its folder.
        seed: what everything is drawn from.
        folder: the parent of the run's folder `version_N`.
        arguments: of `train.py`.
    """

    recipe: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]

    @property
    def versions(self) -> list[Path]:
        """The folders of its attempts, the newest last."""
        return sorted(self.folder.glob("version_*"), key=lambda path: int(path.name.removeprefix("version_")))

    @property
    def finished(self) -> Path | None:
        """The folder that holds its result, None before."""
        return next((path for path in self.versions if (path / "metrics.json").exists()), None)

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.folder.with_suffix(".log")


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
        "--grid", action="append", default=[], metavar="OPTION=A,B", help="Crosses the recipes with these values."
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="Runs at a time. (default: one for each core)")
    parser.add_argument("--shard", metavar="K/N", help="Only the K-th of N parts of the runs, without the report.")
    options, overrides = parser.parse_known_args(args)
    require_at_least(1, {"--seeds": options.seeds, "--jobs": options.jobs})
    folder = Path(options.runs_dir, "compare", options.name)
    runs = list(_plan(folder, options.configs, options.grid, range(1, options.seeds + 1), overrides))
    _refuse_another_study(folder, runs)
    mine = runs if options.shard is None else _part(runs, options.shard)
    failures = _train(train_script, [run for run in mine if run.finished is None], options.jobs)
    console = open_console()
    for run in failures:
        console.print(f"failed: {run.recipe}, seed {run.seed}: {_last_line(run)}; all of it in {run.log}")
    if options.shard is None:
        results = [(run.recipe, run.seed, run.finished) for run in runs]
        failed = {(run.recipe, run.seed): _last_line(run) for run in failures}
        words = ["python", "scripts/compare.py", *(sys.argv[1:] if args is None else args)]
        write_report(folder, results, failed, words, console)
    if failures:
        raise SystemExit(1)


def _plan(
    folder: Path, configs: Sequence[str], grid: Sequence[str], seeds: range, overrides: Sequence[str]
) -> Iterator[Run]:
    """All runs of a study, seed by seed, so that every recipe has some before one has all."""
    axes = []
    for axis in grid:
        if not re.fullmatch(r"[\w.]+=.+", axis):
            raise UserError(f"--grid {axis}: give OPTION=VALUE,VALUE,..., such as model.n_hidden=100,200")
        option, values = axis.split("=", 1)
        axes.append([(option, value) for value in values.split(",")])
    for config in configs:
        if not Path(config).is_file():
            raise UserError(f"{config}: there is no such configuration; give a YAML file, as for train.py --config")
    for seed, config, point in itertools.product(seeds, configs, itertools.product(*axes)):
        label = "_".join([Path(config).stem, *(f"{option.split('.')[-1]}={value}" for option, value in point)])
        recipe = re.sub(r"[^\w.=+-]+", "-", label)
        crossed = [part for option, value in point for part in (f"--{option}", value)]
        arguments = ("--config", config, *overrides, *crossed, "--seed_everything", str(seed))
        yield Run(recipe, seed, folder / "runs" / recipe / f"seed_{seed}", arguments)


def _refuse_another_study(folder: Path, runs: Sequence[Run]) -> None:
    """A study may grow by recipes and seeds, but a recipe of a name stays the same; `study.json` keeps it."""
    recipes = {}
    for run in runs:
        content = Path(run.arguments[1]).read_bytes()
        recipes[run.recipe] = {"sha256": hashlib.sha256(content).hexdigest(), "arguments": run.arguments[2:-2]}
    if len({run.folder for run in runs}) < len(runs):
        raise UserError("two recipes have the same name; rename one of the files, or leave one out")
    path = folder / "study.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for recipe, own in recipes.items():
        if recipe in before and before[recipe] != json.loads(json.dumps(own)):
            raise UserError(f"--name {folder.name}: holds another recipe {recipe}; give this study a name of its own")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(before | recipes, indent=2) + "\n", encoding="utf-8")


def _part(runs: Sequence[Run], shard: str) -> Sequence[Run]:
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard {shard}: give K/N, the K-th of N parts, such as 2/8")
    return runs[int(match[1]) - 1 :: int(match[2])]


def _train(train_script: Path, runs: Sequence[Run], jobs: int) -> list[Run]:
    """Trains the runs, so many at a time; returns those that failed."""
    waiting, failures = list(runs), []
    running: dict[Run, subprocess.Popen[bytes]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("runs", total=len(runs))
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.pop(0)
                    running[run] = _start(train_script, run, max(1, (os.cpu_count() or 1) // jobs))
                time.sleep(0.2)
                for run in [run for run, process in running.items() if process.poll() is not None]:
                    if running.pop(run).returncode != 0:
                        failures.append(run)
                    progress.advance(task)
                progress.update(task, description=", ".join(f"{r.recipe} {r.seed}" for r in running) or "runs")
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


def _last_line(run: Run) -> str:
    lines = run.log.read_text(encoding="utf-8", errors="replace").split("\n") if run.log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it printed nothing")
