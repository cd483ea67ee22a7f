"""Reads the trials of a search from Optuna's storage: which count, which are best, which were interrupted."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from runlab._errors import UserError
from runlab.many._run import Run
from runlab.many._space import Axis

DOES_NOT_COUNT = "does not count"  # attribute of a trial that is not one of those asked for; its value is the reason
SECONDS_TO_TELL = 2.0  # within which another call tells Optuna the result of a run that has just finished
TOO_LARGE = "its network is too large"  # such a reason
FOLDER = "folder"  # attribute of a trial whose run was begun


@dataclass(frozen=True)
class Goal:
    """The goal of a search, and its limits."""

    trials: int  # in all, including those of earlier calls
    metric: str = "val/loss"  # a metric of validation
    direction: Literal["minimize", "maximize"] | None = None  # default: maximize an accuracy, minimize the rest
    max_parameters: int | None = None  # of a network; larger ones are not trained, and do not count
    budget_updates: int | None = None  # of all trials; once they are spent, no trial is begun

    @property
    def maximize(self) -> bool:
        return self.toward == "maximize"

    @property
    def toward(self) -> Literal["minimize", "maximize"]:
        return self.direction or ("maximize" if self.metric.endswith("accuracy") else "minimize")

    @property
    def worst(self) -> float:
        """The value of a trial that diverged."""
        return -math.inf if self.maximize else math.inf


class Trials:
    """The trials of a search; trial N is a run in `FOLDER/trials/N`.

    Args:
        folder: the search's folder.
        study: Optuna's study.
        options: the options of every run, the script's own first.
        axes: the space.
        goal: the number of trials, and their metric.
    """

    def __init__(
        self, folder: Path, study: optuna.Study, options: Sequence[str], axes: Sequence[Axis], goal: Goal
    ) -> None:
        self.folder = folder
        self.study = study
        self.axes = axes
        self.goal = goal
        self._options = tuple(options)
        self._first = len(self._stored)  # the number of this call's first trial

    def define(self, definition: Mapping[str, Any]) -> None:
        """Stores what makes trials comparable; raises a UserError if the search has trials of another definition."""
        known = self.study.user_attrs.get("definition", definition)
        other = ", ".join(key for key, value in definition.items() if known.get(key, value) != value)
        if other and self._stored:
            raise UserError(f"that search was started with a different {other}; use a new name", name=self.folder.name)
        self.study.set_user_attr("definition", definition)

    @property
    def all(self) -> list[FrozenTrial]:
        """The trials that count: not too large, not a duplicate, not surplus, not retried."""
        again = {number for trial in self._stored for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
        counted = [one for one in self._stored if one.number not in again and DOES_NOT_COUNT not in one.user_attrs]
        # A call killed while the sampler was at work leaves a trial without values.
        return [one for one in counted if one.state != TrialState.RUNNING or self._has_values(one)]

    @property
    def ranked(self) -> list[FrozenTrial]:
        """The trials that ended with a finite value, the best first."""
        done = [trial for trial in self.all if trial.state == TrialState.COMPLETE and math.isfinite(trial.values[0])]
        return sorted(done, key=lambda trial: trial.values[0], reverse=self.goal.maximize)

    @property
    def failed(self) -> list[FrozenTrial]:
        return [trial for trial in self.all if trial.state == TrialState.FAIL]

    @property
    def done(self) -> int:
        return sum(trial.state.is_finished() for trial in self.all)

    @property
    def missing(self) -> int:
        """The number of trials to begin or resume."""
        waiting = sum(trial.state == TrialState.WAITING for trial in self.all)
        return waiting + (0 if self.is_out_of_budget else max(0, self.goal.trials - len(self.all)))

    @property
    def is_out_of_budget(self) -> bool:
        budget = self.goal.budget_updates
        return budget is not None and sum(max(one.intermediate_values, default=0) for one in self.all) >= budget

    @property
    def latest_that_do_not_count(self) -> list[str]:
        """The reasons why the latest trials do not count, newest first, back to the last trial that does.

        Networks that were too large for an earlier call do not matter, as the limit may have changed.
        """
        reasons: list[str] = []
        for trial in reversed(self._stored):
            reason = trial.user_attrs.get(DOES_NOT_COUNT)
            if reason is None or (reason == TOO_LARGE and trial.number < self._first):
                break
            reasons.append(reason)
        return reasons

    @property
    def summary(self) -> str:
        """The state of the search, in words."""
        states = [trial.state for trial in self.all]
        words = f"{states.count(TrialState.PRUNED)} pruned, {states.count(TrialState.RUNNING)} running"
        for best in self.ranked[:1]:
            words += f", best {best.values[0]:.4f}"
        return words

    def options_of(self, trial: FrozenTrial) -> tuple[str, ...]:
        """Returns the options that a trial is trained with."""
        return (*self._options, *(word for axis in self.axes for word in axis.words(trial.params[axis.option])))

    def run_of(self, trial: FrozenTrial) -> Run:
        """Returns the run of a trial; a retried trial continues the run of its first attempt."""
        first = (*RetryHeartbeatStaleTrialCallback.retry_history(trial), trial.number)[0]
        return Run(self.folder / "trials" / str(first), f"trial {trial.number}", self.options_of(trial))

    def requeue_interrupted(self) -> None:
        """Requeues the trials that are marked as running but that no process on this machine is training.

        Optuna itself requeues other machines' trials whose heartbeat stopped.
        """
        storage = self.study._storage
        for trial in self._stored:
            if trial.state != TrialState.RUNNING or not self._has_values(trial):
                continue
            run = self.run_of(trial)
            if not run.folder.exists() or (lock := run.lock()) is None:  # on another machine, or being trained
                continue
            with lock:
                if run.finished is not None:
                    time.sleep(SECONDS_TO_TELL)
                try:
                    storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
                except UpdateFinishedTrialError:  # it has finished by now
                    continue

    @property
    def _stored(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _has_values(self, trial: FrozenTrial) -> bool:
        return all(axis.option in trial.params for axis in self.axes)
