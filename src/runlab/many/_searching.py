"""A search: from a space of recipes to the best, which is then trained again beside the recipe that it began from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml
from optuna.pruners import BasePruner, MedianPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial
from rich.console import Console

from runlab._errors import UserError
from runlab._files import write_atomically
from runlab.many._confirmation import Confirmation, confirm_best
from runlab.many._dry_run import check_space, difference, rehearse, without_places
from runlab.many._pool import Ended, Pool, display, train_all
from runlab.many._script import Script, cores
from runlab.many._search_report import write_search_report
from runlab.many._space import read_space
from runlab.many._storage import open_storage, quiet_optuna
from runlab.many._trials import Goal, Trials


@dataclass(frozen=True)
class Result:
    """What has come of a search."""

    trials: list[FrozenTrial]  # those that count
    best: FrozenTrial | None  # whose value is better than can be expected of its recipe, as it was chosen for it
    recipe: Path | None  # of the best, for `train.py --config`
    confirmation: Confirmation | None


@quiet_optuna()
def search(
    script: Script,
    recipe: str | Path,
    space: Mapping[str, Any],
    trials: int,
    *,
    metric: str = "val/loss",
    direction: Literal["minimize", "maximize"] | None = None,
    max_parameters: int | None = None,
    budget_updates: int | None = None,
    name: str = "search",
    runs_dir: str | Path = "runs",
    overrides: Sequence[str] = (),
    sampler: Callable[[int], BaseSampler] = lambda seed: TPESampler(seed=seed),
    pruner: BasePruner | None = None,
    storage: str | None = None,
    jobs: int | None = None,
    confirm: int = 5,
    command: Sequence[str] = (),
    console: Console | None = None,
) -> Result | None:
    """Searches the space around a recipe, or goes on with a search; then confirms its best trial.

    Args:
        script: what trains.
        recipe: a YAML file, as for `train.py --config`.
        space: options of `train.py`, each with its values, as `read_values` takes them.
        trials: how many there are in all, with those of earlier calls.
        metric: its name among the metrics of a validation, each of which is a report.
        direction: whether less or more is better; by default more of an accuracy, less of anything else.
        max_parameters: larger networks are not trained, and do not count.
        budget_updates: no trial is begun any more when all together have trained so many updates.
        name: the search goes to `RUNS_DIR/search/NAME`.
        runs_dir: the folder of all runs.
        overrides: further arguments of `train.py` for every run.
        sampler: Optuna's, from a seed.
        pruner: Optuna's, by default its MedianPruner.
        storage: the URL of a database, which several machines may share; by default a file in the folder.
        jobs: runs at a time, by default one for each core.
        confirm: with how many fresh seeds the best trial is compared with the recipe; 0 leaves it out.
        command: the command line, for the report.
        console: for what there is to say.

    Returns:
        The result; None where other calls of the same search still train, the last of which has it.

    Raises:
        UserError: the recipe or a value of the space is refused, or the search is there with another definition.
    """
    direction = direction or ("maximize" if metric.endswith("accuracy") else "minimize")
    goal = Goal(trials, metric, direction, max_parameters, budget_updates)
    axes, jobs, console = read_space(space), jobs or cores(), console or Console()
    for axis in axes:
        if any(word.split("=")[0] == f"--{axis.option}" for word in overrides):
            raise UserError("is searched; leave it out", **{axis.option: None})
    folder = Path(runs_dir, "search", name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}); give another folder", runs_dir=None) from error
    opened, options = open_storage(storage, folder), ("--config", str(recipe), *overrides)
    base = check_space(script, options, axes)
    definition = {
        "recipe": Path(recipe).read_text(encoding="utf-8"),
        "overrides": list(overrides),
        "space": {axis.option: repr(axis.distribution) for axis in axes},
        "metric": goal.metric,
        "direction": goal.direction,
    }
    searched = Trials(
        folder, opened, definition, (*script.options, *options), axes, sampler, pruner or MedianPruner(), goal
    )
    with Pool(script, jobs, max(1, cores() // min(jobs, trials))) as pool:
        _train(pool, searched, goal)
    _tell_of_failures(searched, console)
    if any(not trial.state.is_finished() for trial in searched.all):
        console.print("other calls of this search still train; the last of them confirms the best trial")
        return None
    if not searched.ranked:
        console.print("no trial ended with a finite value")
        return Result(searched.all, None, None, None)
    best, confirmation = searched.ranked[0], None
    found = _write_best(script, folder, searched, best)
    if confirm:
        study = folder / "confirmation" / f"trial_{best.number}"
        seeds = [seed for seed in range(1, confirm + 2) if seed != base["seed_everything"]][:confirm]
        train = partial(train_all, script, jobs=jobs)
        confirmation = confirm_best(study, Path(recipe), found, seeds, overrides, goal, train, command, console)
    write_search_report(folder, searched, goal, confirmation, command, console)
    return Result(searched.all, best, found, confirmation)


def _train(pool: Pool, trials: Trials, goal: Goal) -> None:
    """Trains trials until there are enough."""
    with display() as progress:
        task = progress.add_task("", total=goal.trials)
        while True:
            _fill(pool, trials)
            if trials.tend():
                _fill(pool, trials)
            progress.update(task, completed=trials.done, description=trials.summary)
            if not pool.running:
                return
            for run, news in pool.wait(1):
                if isinstance(news, Ended):
                    trials.ended(run, news.status)
                else:
                    pool.answer(run, trials.told(run, news))


def _tell_of_failures(trials: Trials, console: Console) -> None:
    for trial in trials.failed:
        console.print(f"failed: trial {trial.number}: {trial.user_attrs.get('error', 'its process was lost')}")
    if trials.is_exhausted:
        console.print(f"nothing is left to try after {len(trials.all)} trials")


def _fill(pool: Pool, trials: Trials) -> None:
    while pool.has_room and trials.begin_one(lambda run: pool.begin(run, watched=True)):
        pass


def _write_best(script: Script, folder: Path, trials: Trials, best: FrozenTrial) -> Path:
    """Writes `best.yaml`: what the best trial has that a run of `train.py` without arguments has not."""
    default, configuration = rehearse(script, [(), trials.options_of(best)])
    for refused in (default, configuration):
        if isinstance(refused, UserError):
            raise refused
    assert isinstance(default, dict)
    assert isinstance(configuration, dict)
    about = f"# Trial {best.number} of the search {folder.name}; report.md there says whether it is better than luck.\n"
    path = folder / "best.yaml"
    for content in (difference(configuration, default), without_places(configuration)):
        text = yaml.safe_dump({"name": "best", **content}, sort_keys=False)
        write_atomically(path, (about + text).encode())
        (again,) = rehearse(script, [("--config", str(path))])
        if isinstance(again, dict) and without_places(again) == without_places(configuration):
            break  # else a class has kept an argument of the default: all of the configuration is written
    return path
