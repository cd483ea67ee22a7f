"""Reports a search: the ten best trials, figures, and whether the best one beats the initial recipe."""

import datetime
import math
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from runlab._drawing import draw
from runlab.many._confirmation import Confirmation
from runlab.many._figures import history_figure, importances_figure, slices_figure
from runlab.many._report import processor
from runlab.many._script import cores
from runlab.many._trials import Goal, Trials

SHOWN = 10
IN_WORDS = {"better": "is better than", "worse": "is worse than", "not told apart": "cannot be told apart from"}
MANY = 10  # trials; with fewer, importances mean nothing


def write_search_report(
    folder: Path,
    trials: Trials,
    goal: Goal,
    confirmation: Confirmation | None,
    words: Sequence[str],
    console: Console,
) -> None:
    """Writes report.md with the command `words`, and its figures; prints the verdict and the paths."""
    ended = trials.ranked
    figures = _draw(folder, trials, goal, ended)
    machine = f"torch {version('torch')}, {cores()} cores of {processor()}"
    verdict = _verdict(ended[0], goal, confirmation)
    text = [f"# {folder.name}", "", f"{datetime.date.today()}, {machine}, by", "", "```", shlex.join(words), "```", ""]
    text += [verdict, "", f"{_counted(trials)} The ten best:", "", *_table(ended[:SHOWN], goal), ""]
    if confirmation is not None:
        study = f"confirmation/trial_{ended[0].number}"
        text += [f"[The confirmation]({study}/report.md):", "", f"![each seed]({study}/final.png)", ""]
    text += [f"![{name}]({name}.png)\n" for name in figures]
    text += [f"- no result: trial {trial.number}: {trial.user_attrs.get('error')}" for trial in trials.failed]
    (folder / "report.md").write_text("\n".join(text).rstrip("\n") + "\n", encoding="utf-8")
    console.print(verdict)
    console.print(f"best    {folder / 'best.yaml'}")
    console.print(f"report  {folder / 'report.md'}")


def _verdict(best: FrozenTrial, goal: Goal, confirmation: Confirmation | None) -> str:
    found = f"Trial {best.number} had the best {goal.metric} of the search, {best.values[0]:.4f}"
    if confirmation is None:
        luck = "the best of many trials is partly luck, so its recipe will do worse on average"
        return f"{found}. It was not confirmed: {luck}."
    if not confirmation.seeds:
        return f"{found}. It could not be confirmed: no fresh seed has a result of its recipe and of the initial one."
    interval = f" ± {confirmation.half:.4f} (95 %)" if math.isfinite(confirmation.half) else ""
    seeds = f"{confirmation.seeds} fresh seed{'s' if confirmation.seeds > 1 else ''}"
    more = f"{confirmation.lost} more seed{'s' if confirmation.lost > 1 else ''}"
    lost = f" It had no result for {more}." if confirmation.lost else ""
    return (
        f"{found}. Retrained with {seeds}, its recipe {IN_WORDS[confirmation.verdict]} "
        f"the initial one: the difference in {confirmation.metric} is {confirmation.change:+.4f}"
        f"{interval}.{lost}"
    )


def _counted(trials: Trials) -> str:
    states = [trial.state for trial in trials.all]
    return (
        f"{len(states)} trials: {states.count(TrialState.COMPLETE)} trained to the end, "
        f"{states.count(TrialState.PRUNED)} pruned, {states.count(TrialState.FAIL)} without a result."
    )


def _table(ended: Sequence[FrozenTrial], goal: Goal) -> list[str]:
    """Returns the trials as lines of a Markdown table."""
    options = list(ended[0].params)
    head = ["trial", goal.metric, "parameters", *(option.removeprefix("model.") for option in options)]
    lines = [head, ["---"] * len(head)]
    for trial in ended:
        parameters = f"{trial.user_attrs.get('parameters', 0):,}"
        values = [_written(trial.params[option]) for option in options]
        lines.append([str(trial.number), f"{trial.values[0]:.4f}", parameters, *values])
    return [f"| {' | '.join(line)} |" for line in lines]


def _written(value: object) -> str:
    """Returns a value in short form: a class by its name, with its arguments in parentheses."""
    if isinstance(value, float):
        return f"{value:.4g}"
    read = yaml.safe_load(value) if isinstance(value, str) and value.startswith("{") else None
    if isinstance(read, dict) and "class_path" in read:
        arguments = ", ".join(f"{key}={_argument(one)}" for key, one in read.get("init_args", {}).items())
        return f"{read['class_path'].split('.')[-1]}({arguments})"
    return str(value).replace("|", "\\|")


def _point(value: object) -> Any:
    return _written(value) if isinstance(value, str) else value


def _argument(value: object) -> str:
    """Returns an argument as text; a group of options as its values."""
    return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def _draw(folder: Path, trials: Trials, goal: Goal, ended: Sequence[FrozenTrial]) -> list[str]:
    """Draws the figures for which there are enough trials, and returns their names."""
    pruned = [trial for trial in trials.all if trial.state == TrialState.PRUNED and trial.intermediate_values]
    in_order = sorted(ended, key=lambda trial: trial.number)
    figures: dict[str, tuple[Any, ...]] = {
        "history": (
            history_figure,
            goal.metric,
            [(trial.number, trial.values[0]) for trial in in_order],
            [(trial.number, list(trial.intermediate_values.values())[-1]) for trial in pruned],
            max if goal.maximize else min,
        ),
        "slices": (
            slices_figure,
            goal.metric,
            {option: [_point(trial.params[option]) for trial in ended] for option in ended[0].params},
            {option for option, distribution in ended[0].distributions.items() if _is_logarithmic(distribution)},
            [trial.values[0] for trial in ended],
        ),
    }
    if len(ended) >= MANY and len(ended[0].params) > 1:
        counted = optuna.create_study(direction=goal.toward)
        counted.add_trials(ended)
        evaluator = PedAnovaImportanceEvaluator()
        figures["importances"] = importances_figure, get_param_importances(counted, evaluator=evaluator)
    for name, figure in figures.items():
        (folder / f"{name}.png").write_bytes(draw(*figure)[0])
    return list(figures)


def _is_logarithmic(distribution: object) -> bool:
    return isinstance(distribution, (FloatDistribution, IntDistribution)) and distribution.log
