"""Trains the best trial of a search and the recipe that the search began from, with seeds new to the search."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from runlab._files import write_atomically
from runlab.many._objective import MEASURED
from runlab.many._plan import SeedRun, plan, record_recipes
from runlab.many._report import paired_interval, write_report
from runlab.many._trials import Goal


@dataclass(frozen=True)
class Confirmation:
    """The comparison of the best trial with the recipe that the search began from, over seeds new to the search."""

    seeds: int  # the number of seeds with a finite difference; if 0, there is no change
    metric: str
    change: float  # in the metric, best trial minus recipe: the mean over seeds
    half: float  # half the width of its 95 % interval
    verdict: str  # better, not told apart, or worse
    lost: int = 0  # the number of seeds for which the best trial has no result, for instance because it diverged


def confirm_best(
    study: Path,
    recipe: Path,
    found: Path,
    seeds: Sequence[int],
    overrides: Sequence[str],
    goal: Goal,
    train: Callable[[Sequence[SeedRun]], list[SeedRun]],
    command: Sequence[str],
    console: Console,
    first: Sequence[str] = (),
) -> Confirmation | None:
    """Trains two recipes with each seed and compares their results; None if another process still trains one.

    Args:
        study: the folder of the runs, named after the best trial.
        recipe: the recipe that the search began from.
        found: the recipe of the best trial.
        seeds: seeds that the search has not used.
        overrides: the search's overrides, which `found` already includes.
        goal: the search's goal.
        train: trains runs, and returns the ones that it trained.
        command: the command line of the search, for the report.
        console: for the table.
        first: the script's options for every run.
    """
    study.mkdir(parents=True, exist_ok=True)
    seeds = sorted({*seeds, *_seeds_in(study)})  # of earlier calls with more seeds, too
    copy = study / f"{'best' if recipe.stem == study.name else study.name}.yaml"
    if not copy.exists():
        write_atomically(copy, found.read_bytes())
    before = plan(study, [str(recipe)], [], seeds, overrides, first)
    after = plan(study, [str(copy)], [], seeds, [], first)
    runs = [run for pair in zip(before, after, strict=True) for run in pair]
    record_recipes(study, runs)
    trained = train([run for run in runs if run.finished is None])
    if any(run.finished is None and run not in trained for run in runs):
        return None
    write_report(study, runs, [run for run in trained if run.finished is None], command, console)
    return _compared(before, after, goal)


def _seeds_in(study: Path) -> list[int]:
    found = (re.fullmatch(r"seed_(\d+)", run.name) for run in study.glob("runs/*/seed_*") if run.is_dir())
    return [int(match[1]) for match in found if match]


def _compared(before: Sequence[SeedRun], after: Sequence[SeedRun], goal: Goal) -> Confirmation:
    """Compares the results of two recipes seed by seed."""
    metric = goal.metric if goal.metric in MEASURED else "val/loss"  # metrics.json lacks the user's own metrics
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old.finished and new.finished]
    differences = [new.measured(metric) - old.measured(metric) for old, new in pairs]
    differences = [one for one in differences if math.isfinite(one)]
    lost = sum(not run.finished for run in after)
    if not differences:
        return Confirmation(0, metric, math.nan, math.nan, "not told apart", lost)
    change, half = paired_interval(differences)
    gain = change if goal.maximize and metric == goal.metric else -change
    verdict = "better" if gain > half else "worse" if -gain > half else "not told apart"
    return Confirmation(len(differences), metric, change, half, verdict, lost)
