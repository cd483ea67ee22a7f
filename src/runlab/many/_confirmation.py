"""The best trial of a search trained beside the recipe that the search began from, with seeds that it has not seen."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from runlab.many._objective import MEASURED
from runlab.many._plan import SeedRun, plan, record_recipes
from runlab.many._report import paired_interval, write_report
from runlab.many._trials import Goal


@dataclass(frozen=True)
class Confirmation:
    """The best trial and the recipe that the search began from, trained with seeds that the search has not seen."""

    seeds: int  # with which both were trained
    metric: str
    change: float  # of the metric: best trial minus recipe, mean of the differences seed by seed
    half: float  # half the width of its 95 % interval
    verdict: str  # better, not told apart, or worse
    lost: int = 0  # the seeds with which the best trial had no result, such as where its loss diverged


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
) -> Confirmation | None:
    """Trains two recipes with each of the seeds, and compares how they end.

    Args:
        study: the folder of the runs, named as the best trial.
        recipe: from which the search began.
        found: the recipe of the best trial.
        seeds: which the search has not seen.
        overrides: of the search, which the recipe of the best trial has in it.
        goal: of the search.
        train: trains runs, and returns those that it has trained.
        command: the command line of the search, for the report.
        console: for the table.

    Returns:
        The comparison; None where for no seed both have come to their end.
    """
    study.mkdir(parents=True, exist_ok=True)
    copy = study / f"{study.name}.yaml"
    if not copy.exists():
        copy.write_bytes(found.read_bytes())
    before, after = plan(study, [str(recipe)], [], seeds, overrides), plan(study, [str(copy)], [], seeds, [])
    runs = [run for pair in zip(before, after, strict=True) for run in pair]
    record_recipes(study, runs)
    trained = train([run for run in runs if run.finished is None])
    failures = [run for run in trained if run.finished is None]
    write_report(study, runs, failures, command, console)
    return _compared(before, after, goal)


def _compared(before: Sequence[SeedRun], after: Sequence[SeedRun], goal: Goal) -> Confirmation | None:
    """Compares how runs of two recipes ended, seed by seed."""
    metric = goal.metric if goal.metric in MEASURED else "val/loss"  # one of the user's own is not in metrics.json
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old.finished and new.finished]
    differences = [new.measured(metric) - old.measured(metric) for old, new in pairs]
    differences = [one for one in differences if math.isfinite(one)]
    if not differences:
        return None
    change, half = paired_interval(differences)
    gain = change if goal.maximize and metric == goal.metric else -change
    verdict = "better" if gain > half else "worse" if -gain > half else "not told apart"
    return Confirmation(len(differences), metric, change, half, verdict, sum(not run.finished for run in after))
