"""Reads the space of a search: options of `train.py`, each with the values that it may take."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from runlab._errors import UserError
from runlab.many._plan import as_words, values

NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
RANGE = re.compile(rf"{NUMBER}\.\.{NUMBER}(?:\s+(log)|\s+step\s+{NUMBER})?")
FORMS = "give LOW..HIGH, LOW..HIGH log, LOW..HIGH step S, or A,B,C"


@dataclass(frozen=True)
class Axis:
    """An option and the distribution of its values: numbers, or words for `train.py`."""

    option: str
    distribution: BaseDistribution

    def words(self, value: Any) -> tuple[str, ...]:
        """Returns the option with this value, as arguments of `train.py`."""
        return as_words(self.option, str(value))

    def suggest(self, trial: Trial) -> None:
        """Lets an Optuna trial choose a value."""
        one: Any = self.distribution
        if isinstance(one, CategoricalDistribution):
            trial.suggest_categorical(self.option, one.choices)
        elif isinstance(one, IntDistribution):
            trial.suggest_int(self.option, one.low, one.high, step=one.step, log=one.log)
        else:
            trial.suggest_float(self.option, one.low, one.high, step=one.step, log=one.log)

    @property
    def probes(self) -> list[Any]:
        """Values that show whether all are accepted: every choice, or both ends of a range."""
        distribution: Any = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return list(distribution.choices)
        return [distribution.low, distribution.high]

    @property
    def grid(self) -> list[Any]:
        """All values; raises a UserError for a continuous or logarithmic range."""
        distribution: Any = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return list(distribution.choices)
        low, high, step = distribution.low, distribution.high, distribution.step
        if step is None or distribution.log:
            raise UserError("a grid needs a step or choices", space=f"{self.option}={low}..{high}")
        count = round((high - low) / step) + 1
        return [min(high, round(low + i * step, 12)) for i in range(count)]  # no digits of rounding


def read_space(space: Mapping[str, Any]) -> list[Axis]:
    """Returns the axes of a search, given options and values as for `read_values`; classes precede their arguments."""
    if not space:
        raise UserError("nothing to search; give at least one OPTION=VALUES", space=None)
    axes = []
    for option, described in space.items():
        if not re.fullmatch(r"[\w.]+", option):
            raise UserError("give OPTION=VALUES, such as model.n_hidden=50..400", space=f"{option}={described}")
        axes.append(Axis(option, read_values(described, f"{option}={described}")))
    return sorted(axes, key=lambda axis: axis.option)


def read_values(described: Any, text: str) -> BaseDistribution:
    """Returns the distribution of values.

    >>> read_values("50..400 step 50", "").step
    50
    >>> read_values("Tanh,ReLU", "").choices
    ('Tanh', 'ReLU')

    Args:
        described: `LOW..HIGH`, of whole numbers if all are whole, optionally followed by `log` or `step S`; choices
            separated by commas; or a list of choices of any kind.
        text: the user's words, for the error.

    Raises:
        UserError: it is none of these, or there are fewer than two values.
    """
    if isinstance(described, list):
        return _choices([value if isinstance(value, str) else json.dumps(value) for value in described], text)
    if not isinstance(described, str):
        raise UserError(FORMS, space=text)
    if found := RANGE.fullmatch(described):
        low, high, log, step = found.groups()
        return _range(low, high, log is not None, step, text)
    if not described or ".." in values(described)[0]:
        raise UserError(FORMS, space=text)
    return _choices(values(described), text)


def from_words(words: Sequence[str]) -> dict[str, Any]:
    """Returns a space from words `OPTION=VALUES`."""
    space: dict[str, Any] = {}
    for word in words:
        option, _, described = word.partition("=")
        option = option.strip().removeprefix("--")
        if option in space:
            raise UserError("given twice; give it once", space=option)
        space[option] = described.strip()
    return space


def _range(low: str, high: str, log: bool, step: str | None, text: str) -> BaseDistribution:
    whole = all(re.fullmatch(r"[-+]?\d+", number) for number in (low, high, step or "1"))
    kind: Any = int if whole else float
    first, last, by = kind(low), kind(high), None if step is None else kind(step)
    if first >= last:
        raise UserError("the range is empty; give the lower number first", space=text)
    if log and first <= 0:
        raise UserError("a logarithm needs numbers above 0", space=text)
    if by is not None:
        steps = (last - first) / by if by > 0 else 0.0
        if steps < 1 or abs(steps - round(steps)) > 1e-6:
            raise UserError(
                f"the range {low} to {high} cannot be divided into steps of {step}; give another step", space=text
            )
    if whole:
        return IntDistribution(first, last, log=log, step=1 if by is None else by)
    return FloatDistribution(first, last, log=log, step=by)


def _choices(words: Sequence[str], text: str) -> BaseDistribution:
    if len(set(words)) < 2 or "" in words:
        raise UserError(f"needs at least two different values, none of them empty; {FORMS}", space=text)
    return CategoricalDistribution(list(dict.fromkeys(words)))
