"""The trials of a search: which are begun, what becomes of them, which is the best."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState

from runlab._channel import Begins, HasDiverged, Validated
from runlab._errors import UserError
from runlab.many._run import Run
from runlab.many._sampler import PerTrial
from runlab.many._space import Axis
from runlab.many._storage import Heartbeat

ATTEMPTS = 4  # at a trial whose process is killed
INTERRUPTED = (130, 143)  # statuses of a run that Ctrl-C or SIGTERM has ended
DOES_NOT_COUNT = "does not count"  # the attribute of a trial that was not trained, with the reason
TOO_LARGE = "its network is too large"
MEASURED = ("val/loss", "val/perplexity", "val/accuracy")  # what metrics.json has of them
EXHAUSTED = "exhausted"  # the attribute of a search that finds nothing new to try
HOPELESS = 100  # times in a row that a trial does not count


@dataclass(frozen=True)
class Goal:
    """What a search is after, and how much it may cost."""

    trials: int
    metric: str = "val/loss"
    direction: Literal["minimize", "maximize"] = "minimize"
    max_parameters: int | None = None  # of a network; larger ones are not trained, and do not count
    budget_updates: int | None = None  # of all trials; when they are trained, no trial is begun any more

    @property
    def maximize(self) -> bool:
        return self.direction == "maximize"

    @property
    def worst(self) -> float:
        """The value of a trial that has diverged."""
        return -math.inf if self.maximize else math.inf


class Trials:
    """Begins trials, hears what becomes of their runs, and decides which go on.

    A trial is a run in `FOLDER/trials/NUMBER`, whose lock tells whether somebody trains it. One that nobody trains any
    more is gone on with under its number, by whichever call of the search comes by.

    Args:
        folder: of the search.
        storage: of Optuna.
        definition: what makes trials comparable.
        options: of every run, the script's own first.
        axes: the space.
        sampler: from a seed, which is another for each trial: what a trial tries depends on its number and the trials
            before it, and not on how often the search was interrupted.
        pruner: decides by the reports so far which trials end early.
        goal: how many trials, by which metric.

    Raises:
        UserError: the search is there with another definition.
    """

    def __init__(
        self,
        folder: Path,
        storage: BaseStorage,
        definition: Mapping[str, Any],
        options: Sequence[str],
        axes: Sequence[Axis],
        sampler: Callable[[int], BaseSampler],
        pruner: BasePruner,
        goal: Goal,
    ) -> None:
        self._folder = folder
        self._options = tuple(options)
        self._axes = axes
        self._goal = goal
        self._own: dict[Run, Trial] = {}
        self._attempts: dict[int, int] = {}
        self.study = optuna.create_study(
            storage=storage,
            study_name=folder.name,
            direction=goal.direction,
            sampler=PerTrial(sampler),
            pruner=pruner,
            load_if_exists=True,
        )
        self._repeats = False  # whether the sampler has proposed nothing new for long
        self._stuck_at = -1  # how many trials were done then
        self._heartbeat = Heartbeat(self.study, storage)
        self._define(definition)

    def begin_one(self, begin: Callable[[Run], bool]) -> bool:
        """Has a trial begun that was left, else a new one; False where there is none, or no more may be begun."""
        with FileLock(self._folder / "search.lock"):
            found = next((left for left in self._left() if begin(left[1])), None) or self._new(begin)
        if found is None:
            return False
        trial, run = found
        self._heartbeat.first(trial._trial_id)
        self._own[run] = trial
        return True

    def told(self, run: Run, message: Begins | Validated | HasDiverged) -> bool:
        """Notes what a run tells; whether it may go on."""
        trial = self._own[run]
        if self._now(trial).state.is_finished():  # given up by another machine, which had no sign of life for long
            return True  # its values are tried again from this run
        if isinstance(message, Begins):
            return self._may_begin(trial, message.parameters)
        if isinstance(message, HasDiverged):
            self._tell(trial, self._goal.worst)
            return False
        return self._may_go_on(trial, message)

    def ended(self, run: Run, status: int) -> None:
        """Notes that the process of a run has ended; where it was killed, the trial is left to be gone on with."""
        trial = self._own.pop(run)
        if self._now(trial).state.is_finished():
            return
        if run.finished is not None:
            self._complete(trial, run)
            return
        attempts = self._attempts[trial.number] = self._attempts.get(trial.number, 0) + 1
        if (status >= 0 and status not in INTERRUPTED) or attempts == ATTEMPTS:
            trial.set_user_attr("error", run.last_line)
            self._tell(trial, state=TrialState.FAIL)

    def tend(self) -> bool:
        """Shows other machines that the trials are alive, and gives up theirs; whether one waits to be tried again.

        To be called when what was left on this machine has been begun, as that goes on under its own number.
        """
        self._heartbeat.give(trial._trial_id for trial in self._own.values())
        return any(trial.state == TrialState.WAITING for trial in self.all)

    @property
    def all(self) -> list[FrozenTrial]:
        """Those that count: without networks that are too large, without values that were tried again."""
        trials = self.study.get_trials(deepcopy=False)
        again = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
        counted = [one for one in trials if one.number not in again and DOES_NOT_COUNT not in one.user_attrs]
        # Whoever was interrupted while the sampler was at work has left a trial without values.
        return [one for one in counted if one.state != TrialState.RUNNING or self._has_values(one)]

    @property
    def ranked(self) -> list[FrozenTrial]:
        """Those that ended with a finite value, the best first."""
        done = [trial for trial in self.all if trial.state == TrialState.COMPLETE and math.isfinite(trial.values[0])]
        return sorted(done, key=lambda trial: trial.values[0], reverse=self._goal.maximize)

    @property
    def failed(self) -> list[FrozenTrial]:
        return [trial for trial in self.all if trial.state == TrialState.FAIL]

    @property
    def is_exhausted(self) -> bool:
        """Whether the sampler has nothing new to try."""
        return self._repeats or EXHAUSTED in self.study.user_attrs

    @property
    def done(self) -> int:
        return sum(trial.state.is_finished() for trial in self.all)

    @property
    def summary(self) -> str:
        """Where the search stands, in words."""
        states = [trial.state for trial in self.all]
        words = f"{states.count(TrialState.PRUNED)} pruned, {states.count(TrialState.RUNNING)} running"
        for best in self.ranked[:1]:
            words += f", best {best.values[0]:.4f}"
        return words

    def options_of(self, trial: FrozenTrial) -> tuple[str, ...]:
        """The options with which a trial is trained."""
        return (*self._options, *(word for axis in self._axes for word in axis.words(trial.params[axis.option])))

    def _define(self, definition: Mapping[str, Any]) -> None:
        known = self.study.user_attrs.get("definition", definition)
        if known != definition and self.study.get_trials(deepcopy=False):
            other = ", ".join(key for key in definition if known.get(key) != definition[key])
            raise UserError(f"that search was begun with another {other}; use a new name", name=self._folder.name)
        self.study.set_user_attr("definition", definition)

    def _left(self) -> Iterator[tuple[Trial, Run]]:
        """Trials that are said to run, and that no process here trains; one that has ended without a word is told."""
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self._has_values(frozen):
                continue
            run, trial = self._run(frozen), Trial(self.study, frozen._trial_id)
            if run in self._own or not run.folder.exists():  # trained by this process, or on another machine
                continue
            if run.finished is None:
                yield trial, run
            elif (lock := run.lock()) is not None:
                with lock:
                    self._complete(trial, run)

    def _new(self, begin: Callable[[Run], bool]) -> tuple[Trial, Run] | None:
        """A new trial, of values that have not been tried: with the same seed, they would lead to the same end."""
        if self._stuck_at == self.done:
            return None
        among_running = False
        for _ in range(HOPELESS):
            if (trial := self._ask()) is None:
                return None
            now = self._now(trial)
            again, run = RetryHeartbeatStaleTrialCallback.retry_history(now), self._run(now)
            if again:
                return self._again(trial, run, begin)
            if run.folder.exists():
                self._tell(trial, state=TrialState.FAIL)
                raise UserError(f"{run.folder} is of another search; remove it, or use a new name", name=None)
            same = [one for one in self.all if one.params == now.params and one.number != now.number]
            same = [one for one in same if one.state != TrialState.FAIL]
            if not same:
                begin(run)
                return trial, run
            among_running |= not same[0].state.is_finished()
            self._repeat(trial, same[0])
        self._stuck_at = self.done
        self._repeats = not among_running
        return None

    def _again(self, trial: Trial, run: Run, begin: Callable[[Run], bool]) -> tuple[Trial, Run] | None:
        """A trial whose values are tried again, unless they are being trained after all, or have been."""
        if begin(run):
            return trial, run
        if run.finished is not None:
            self._complete(trial, run)
        return None

    def _repeat(self, trial: Trial, same: FrozenTrial) -> None:
        """Ends a trial as another of the same values did."""
        trial.set_user_attr(DOES_NOT_COUNT, f"as trial {same.number}")
        for step, value in same.intermediate_values.items():
            trial.report(value, step)
        if same.state == TrialState.COMPLETE:
            self._tell(trial, same.values[0])
        else:
            self._tell(trial, state=TrialState.PRUNED if same.state == TrialState.PRUNED else TrialState.FAIL)

    def _ask(self) -> Trial | None:
        """The values that the sampler would try next, or that wait to be tried again; None where no more may be."""
        trials, goal = self.study.get_trials(deepcopy=False), self._goal
        if not any(trial.state == TrialState.WAITING for trial in trials):
            updates = sum(max(trial.intermediate_values, default=0) for trial in self.all)
            spent = goal.budget_updates is not None and updates >= goal.budget_updates
            if len(self.all) >= goal.trials or spent or EXHAUSTED in self.study.user_attrs:
                return None
            latest = [trial.user_attrs.get(DOES_NOT_COUNT) for trial in trials[-HOPELESS:]]
            if latest.count(TOO_LARGE) == HOPELESS:
                raise UserError("hardly any network is that small; give more", max_parameters=goal.max_parameters)
        trial = self.study.ask({axis.option: axis.distribution for axis in self._axes})
        self._heartbeat.first(trial._trial_id)
        return trial

    def _has_values(self, trial: FrozenTrial) -> bool:
        return all(axis.option in trial.params for axis in self._axes)

    def _run(self, trial: FrozenTrial) -> Run:
        # A trial that is tried again goes on in the folder of the first.
        first = (*RetryHeartbeatStaleTrialCallback.retry_history(trial), trial.number)[0]
        return Run(self._folder / "trials" / str(first), f"trial {trial.number}", self.options_of(trial))

    def _now(self, trial: Trial) -> FrozenTrial:
        """The trial as it is in the storage."""
        return trial.storage.get_trial(trial._trial_id)

    def _may_begin(self, trial: Trial, parameters: int) -> bool:
        trial.set_user_attr("parameters", parameters)
        if self._goal.max_parameters is None or parameters <= self._goal.max_parameters:
            return True
        trial.set_user_attr(DOES_NOT_COUNT, TOO_LARGE)
        self._tell(trial, state=TrialState.PRUNED)
        return False

    def _may_go_on(self, trial: Trial, message: Validated) -> bool:
        value = message.metrics.get(self._goal.metric)
        if value is None:
            known = ", ".join(sorted(name for name in message.metrics if "/" in name))
            raise UserError(f"no validation measures it; there are {known}", metric=self._goal.metric)
        if not math.isfinite(value):
            self._tell(trial, self._goal.worst)
            return False
        trial.report(value, message.update)
        if message.is_last or not trial.should_prune():
            return True
        self._tell(trial, state=TrialState.PRUNED)
        return False

    def _tell(self, trial: Trial, value: float | None = None, state: TrialState | None = None) -> None:
        try:
            self.study.tell(trial, value, state)
        except RuntimeError as error:  # the trial is told of
            if "Study.stop" not in str(error):
                raise
            self.study.set_user_attr(EXHAUSTED, value=True)  # so says a sampler that has been everywhere

    def _complete(self, trial: Trial, run: Run) -> None:
        """Tells the storage of a run that has ended as it should, by its last report.

        A report may have been lost with the process that it was sent to: then it is the value in the run's folder.
        """
        now = self._now(trial)
        if now.state.is_finished():
            return
        if (value := now.intermediate_values.get(run.result["updates"])) is not None:
            self._tell(trial, value)
        elif self._goal.metric in MEASURED:
            self._tell(trial, run.measured(self._goal.metric))
        else:
            trial.set_user_attr("error", "its end was not validated; set trainer.val_check_interval")
            self._tell(trial, state=TrialState.FAIL)
