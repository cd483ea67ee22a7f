"""Searches a space for the best recipe, and trains it again beside the recipe that the search began from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna import Study
from optuna.pruners import BasePruner, MedianPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from rich.console import Console

from runlab._errors import UserError
from runlab._files import within, write_atomically
from runlab._options import from_environment
from runlab.many._confirmation import Confirmation, confirm_best
from runlab.many._dry_run import check_space, difference, dry_run, without_places
from runlab.many._objective import Failed, Objective
from runlab.many._plan import copy_of
from runlab.many._pool import Pool, Stopped, display, train_all
from runlab.many._script import Script, cores
from runlab.many._search_report import write_search_report
from runlab.many._space import Axis, read_space
from runlab.many._storage import one_line, open_storage, quiet_optuna
from runlab.many._trials import FOLDER, TOO_LARGE, Goal, Trials

MAX_DUPLICATES = 100  # consecutive trials that do not count before a search gives up


@dataclass(frozen=True)
class Result:
    """The result of a search."""

    trials: list[FrozenTrial]  # the ones that count
    best: FrozenTrial | None  # chosen for its value, which is therefore optimistic
    recipe: Path | None  # the best trial's, for `--config`
    confirmation: Confirmation | None


@dataclass(frozen=True)
class Search:
    """A search for the best recipe in a space, in the folder `RUNS_DIR/search/NAME`; `run` starts or resumes it."""

    script: Script  # trains each trial
    recipe: str | Path  # the initial recipe: a YAML file for the script's `--config`
    space: Mapping[str, Any]  # options of the script with their values, as for `read_values`
    goal: Goal
    name: str = "search"
    runs_dir: str | Path = "runs"
    overrides: Sequence[str] = ()  # further arguments of the script for every run
    sampler: BaseSampler = field(default_factory=lambda: TPESampler(seed=0))
    pruner: BasePruner = field(default_factory=MedianPruner)
    storage: str | None = None  # the URL of a database, which several machines may share; by default a file
    jobs: int = field(default_factory=cores)  # the number of runs at a time
    confirm: int = 5  # the number of fresh seeds for comparing the best trial with the recipe; 0 for none
    command: Sequence[str] = ()  # the command line, for the report
    console: Console = field(default_factory=Console)

    @property
    def folder(self) -> Path:
        return within(self.runs_dir, "search", self.name)

    @quiet_optuna()
    def run(self) -> Result | None:
        """Trains the missing trials, then confirms the best one.

        Returns:
            The result; None if other calls of the same search are training: the last of them returns it.

        Raises:
            UserError: the recipe or a value of the space is refused, or the search exists with another definition.
        """
        axes = read_space(self.space)
        self._refuse_searched(axes)
        recipe = self._read_recipe()
        self._make_folder()
        with one_line(self.storage, self.folder):
            return self._run(axes, recipe)

    def _run(self, axes: Sequence[Axis], recipe: bytes) -> Result | None:
        copy = copy_of(self.folder, Path(self.recipe))
        base = check_space(self.script, ("--config", str(self.recipe), *self.overrides), axes)
        study = optuna.create_study(
            storage=(storage := open_storage(self.storage, self.folder)),
            study_name=self._study_name(storage),
            direction=self.goal.toward,
            sampler=self.sampler,
            pruner=self.pruner,
            load_if_exists=True,
        )
        options = (*self.script.options, "--config", str(copy), *self.overrides)
        trials = Trials(self.folder, study, options, axes, self.goal)
        trials.define(self._definition(recipe.decode(), axes))
        if copy != Path(self.recipe):
            copy.parent.mkdir(exist_ok=True)
            write_atomically(copy, recipe)
        self._train(trials)
        if any(not trial.state.is_finished() for trial in trials.all):
            others = "other processes are still training for this search"
            self.console.print(f"{others}; the last one will confirm the best trial")
            return None
        if not trials.ranked:
            self.console.print("no trial ended with a finite value")
            return Result(trials.all, None, None, None)
        return self._concluded(trials, copy, int(base["seed_everything"]))

    def _study_name(self, storage: BaseStorage) -> str:
        """Returns the name in the database, which searches may share; one of version 0.2 has the folder's alone."""
        names = optuna.get_all_study_names(storage)
        if self.storage and (self.name in names or self.folder.name not in names):
            return self.name
        old = optuna.load_study(study_name=self.folder.name, storage=storage).trials if self.storage else []
        own = [trial for trial in old if Path(str(trial.user_attrs.get(FOLDER))).parents[1:2] == (self.folder,)]
        return self.folder.name if own or not self.storage else self.name

    def _refuse_searched(self, axes: Sequence[Axis]) -> None:
        given, surrounding = ({word.split("=")[0] for word in words} for words in (self.overrides, from_environment()))
        for option in (axis.option for axis in axes):
            if f"--{option}" in given:
                raise UserError("is part of the search space; remove this option", **{option: None})
            if f"--{option}" in surrounding:  # which would win over the best recipe, too
                raise UserError("is part of the search space; unset its variable of the environment", **{option: None})

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"cannot write to {self.folder} ({error.strerror}); give another folder"
            raise UserError(reason, runs_dir=None) from error

    def _read_recipe(self) -> bytes:
        try:
            content = Path(self.recipe).read_bytes()
            content.decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise UserError(f"{self.recipe} cannot be read ({reason}); give another file") from error
        return content

    def _definition(self, recipe: str, axes: Sequence[Axis]) -> dict[str, Any]:
        return {
            "recipe": recipe.replace("\r\n", "\n"),
            "overrides": list(self.overrides),
            "environment": from_environment(),
            "space": {axis.option: repr(axis.distribution) for axis in axes},
            "metric": self.goal.metric,
            "direction": self.goal.toward,
        }

    def _train(self, trials: Trials) -> None:
        """Runs Optuna's trials until there are enough, the budget is spent, or nothing is left to try."""
        if trials.study.get_trials(deepcopy=False):
            self.sampler.reseed_rng()  # with its first seed it would repeat its earlier proposals
        trials.requeue_interrupted()
        optuna.storages.fail_stale_trials(trials.study)
        began: list[int] = []
        with Pool(self.script, max(1, cores() // min(self.jobs, self.goal.trials))) as pool, display() as progress:
            task = progress.add_task("", total=self.goal.trials)

            def ended(study: Study, trial: FrozenTrial) -> None:
                began.append(trial.number)
                progress.update(task, completed=trials.done, description=trials.summary)
                spent = trials.is_out_of_budget and not trials.missing
                if spent or len(trials.latest_that_do_not_count) >= MAX_DUPLICATES:
                    study.stop()

            objective = Objective(pool, trials)
            while missing := trials.missing:
                began.clear()
                try:
                    jobs = min(self.jobs, missing)
                    trials.study.optimize(objective, missing, n_jobs=jobs, catch=Failed, callbacks=[ended])
                except Stopped:
                    break
                nothing_new = len(trials.latest_that_do_not_count) >= MAX_DUPLICATES
                if nothing_new or (len(began) < missing and not trials.is_out_of_budget):
                    break
        self._print_failures(trials)

    def _print_failures(self, trials: Trials) -> None:
        for trial in trials.failed:
            reason = trial.user_attrs.get("error", "its process was lost")
            self.console.print(f"failed: trial {trial.number}: {reason}")
        reasons = trials.latest_that_do_not_count
        if len(reasons) >= MAX_DUPLICATES and {*reasons} == {TOO_LARGE}:
            reason = "almost all networks of the space are larger; increase it"
            raise UserError(reason, max_parameters=self.goal.max_parameters)
        if trials.missing and not trials.is_out_of_budget:
            self.console.print(f"nothing left to try after {len(trials.all)} trials")

    def _concluded(self, trials: Trials, recipe: Path, seed: int) -> Result | None:
        """Writes the best recipe, confirms it with seeds other than the search's own, and writes the report."""
        best, confirmation = trials.ranked[0], None
        found = self._write_best(trials, best)
        if self.confirm:
            confirmation = confirm_best(
                self.folder / "confirmation" / f"trial_{best.number}",
                recipe,
                found,
                [one for one in range(1, self.confirm + 2) if one != seed][: self.confirm],
                self.overrides,
                self.goal,
                partial(train_all, self.script, jobs=self.jobs),
                self.command,
                self.console,
                self.script.options,
            )
            if confirmation is None:
                self.console.print("other processes are still confirming the best trial; the last one will report it")
                return None
        write_search_report(self.folder, trials, self.goal, confirmation, self.command, self.console)
        return Result(trials.all, best, found, confirmation)

    def _write_best(self, trials: Trials, best: FrozenTrial) -> Path:
        """Writes `best.yaml`, which holds how the best trial differs from a run of the script without arguments."""
        default, configuration = dry_run(self.script, [(), trials.options_of(best)])
        if isinstance(configuration, UserError):
            raise configuration
        if isinstance(default, UserError):  # the script needs options
            default = {}
        which = f"Trial {best.number} of the search {self.name}"
        about = f"# {which}; report.md in its folder says whether it beats the initial recipe.\n"
        path = self.folder / "best.yaml"
        for content in (difference(configuration, default), without_places(configuration)):
            text = yaml.safe_dump({"name": "best", **content}, sort_keys=False)
            write_atomically(path, (about + text).encode())
            (again,) = dry_run(self.script, [("--config", str(path))])
            if isinstance(again, dict) and without_places(again) == without_places(configuration):
                break  # else a class kept an argument of the default, so the whole configuration is written
        return path
