"""Defines Optuna's objective: trains the run of a trial and returns its final metric."""

import math
import threading

from optuna import Trial, TrialPruned
from optuna.trial import FrozenTrial, TrialState

from runlab._channel import Begins, HasDiverged, Validated
from runlab._errors import UserError
from runlab.many._pool import Pool
from runlab.many._run import Run
from runlab.many._trials import DOES_NOT_COUNT, FOLDER, TOO_LARGE, Goal, Trials

ATTEMPTS = 4  # at a trial whose process is killed
INTERRUPTED = (130, 143)  # exit statuses of a run ended by Ctrl-C or SIGTERM
CORPUS = "corpus"  # attribute of a trial that trained to the end: its corpus
PRUNED = "pruned"  # attribute of a trial that was ended early
MEASURED = ("val/loss", "val/perplexity", "val/accuracy")  # the validation metrics in metrics.json


class Failed(Exception):
    """A trial has no value. Its error is among its attributes, unless it does not count anyway."""


class Objective:
    """Trains the run of a trial in a pool and reports its validations to Optuna; several threads may call it.

    Args:
        pool: trains the runs.
        trials: the trials of the search.
    """

    def __init__(self, pool: Pool, trials: Trials) -> None:
        self._pool = pool
        self._trials = trials
        self._lock = threading.Lock()  # a trial is compared with others when it has all its values

    def __call__(self, trial: Trial) -> float:
        """Returns the metric at the end of training; the worst value if the loss diverged.

        Raises:
            TrialPruned: the pruner ended the trial, or its network is too large.
            Failed: the run failed, or the trial is one too many or repeats one that has not ended.
        """
        self._pool.refuse_if_stopped()
        try:
            with self._lock:
                for axis in self._trials.axes:
                    axis.suggest(trial)
                now = _stored(trial)
                others = [one for one in self._trials.all if one.number != trial.number]
            if sum(one.number < trial.number for one in others) >= self._trials.goal.trials:  # of several calls
                raise _not_counted(trial, "one too many")
            same = [one for one in others if one.params == now.params and one.state != TrialState.FAIL]
            return _repeated(trial, same[0]) if same else self._trained(trial, self._run(now))
        except (TrialPruned, Failed):
            raise
        except Exception as error:
            self._pool.stop(error)  # else Optuna would wait for the other trials to end
            raise

    def _run(self, trial: FrozenTrial) -> Run:
        run = self._trials.run_of(trial)
        if run.folder.exists() and FOLDER not in trial.user_attrs:
            raise UserError(f"{run.folder} belongs to another search; remove it, or use a new name", name=None)
        return run

    def _trained(self, trial: Trial, run: Run) -> float:
        trial.set_user_attr(FOLDER, str(run.folder))
        listener = Listener(trial, self._trials.goal)
        for _ in range(ATTEMPTS):  # a killed run resumes from its checkpoint
            status = self._pool.train(run, listener)
            if listener.outcome is not None or run.finished is not None:
                break
            if status is None:
                raise _failed(trial, "another process is training it")
            if status >= 0 and status not in INTERRUPTED:
                raise _failed(trial, run.last_line)
        if isinstance(listener.outcome, Exception):
            raise listener.outcome
        if listener.outcome is not None:
            return listener.outcome
        if run.finished is None:
            raise _failed(trial, run.last_line)
        if PRUNED in _stored(trial).user_attrs:
            raise TrialPruned
        return self._value(trial, run)

    def _value(self, trial: Trial, run: Run) -> float:
        """Returns the last value that a finished run reported; from its folder if the report was lost.

        Raises a UserError if the run was trained on another corpus than an earlier one.
        """
        corpus = run.result.get("corpus", {}).get("sha256")
        trial.set_user_attr(CORPUS, corpus)
        for other in self._trials.all:
            if other.user_attrs.get(CORPUS, corpus) != corpus:
                which = f"trials {other.number} and {trial.number} were trained on different corpora"
                raise UserError(f"{which}; give a single --data.corpus, and a new name", name=None)
        reported = _stored(trial).intermediate_values.get(run.result["updates"])
        if reported is not None:
            return reported
        if self._trials.goal.metric not in MEASURED:
            raise _failed(trial, "its last update was not validated; set trainer.val_check_interval")
        return run.measured(self._trials.goal.metric)


class Listener:
    """Answers the messages of a trial's run; `outcome` is the value or the error that ended it early."""

    def __init__(self, trial: Trial, goal: Goal) -> None:
        self._trial = trial
        self._goal = goal
        self.outcome: float | Exception | None = None

    def __call__(self, message: Begins | Validated | HasDiverged) -> bool:
        """Returns whether the run may continue."""
        if isinstance(message, Begins):
            self.outcome = self._too_large(message.parameters)
        elif isinstance(message, HasDiverged):
            self.outcome = self._goal.worst
        else:
            self.outcome = self._validated(message)
        return self.outcome is None

    def _too_large(self, parameters: int) -> Exception | None:
        self._trial.set_user_attr("parameters", parameters)
        if self._goal.max_parameters is None or parameters <= self._goal.max_parameters:
            return None
        self._trial.set_user_attr(DOES_NOT_COUNT, TOO_LARGE)
        return TrialPruned(TOO_LARGE)

    def _validated(self, message: Validated) -> float | Exception | None:
        value = message.metrics.get(self._goal.metric)
        if value is None:
            known = ", ".join(sorted(name for name in message.metrics if "/" in name))
            raise UserError(f"validation does not report it; give one of {known}", metric=self._goal.metric)
        if not math.isfinite(value):
            return self._goal.worst
        self._trial.report(value, message.update)
        if message.is_last or not self._trial.should_prune():
            return None
        self._trial.set_user_attr(PRUNED, True)  # for the case that this process is killed before Optuna hears of it
        return TrialPruned()


def _stored(trial: Trial) -> FrozenTrial:
    return trial.storage.get_trial(trial._trial_id)


def _repeated(trial: Trial, same: FrozenTrial) -> float:
    """Ends a trial as an earlier one with the same values ended: with the same seed it would train identically."""
    failure = _not_counted(trial, f"same values as trial {same.number}")
    for step, value in same.intermediate_values.items():
        trial.report(value, step)
    if same.state == TrialState.COMPLETE:
        return float(same.values[0])
    raise TrialPruned if same.state == TrialState.PRUNED else failure


def _not_counted(trial: Trial, reason: str) -> Failed:
    trial.set_user_attr(DOES_NOT_COUNT, reason)
    return Failed(reason)


def _failed(trial: Trial, reason: str) -> Failed:
    trial.set_user_attr("error", reason)
    return Failed(reason)
