"""Calls of `train.py` that end before the first update: whether a recipe would be trained, and what it is in full."""

import importlib
import inspect
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from runlab._errors import UserError
from runlab.many._pool import Ended, Pool
from runlab.many._run import Run
from runlab.many._script import Script, cores
from runlab.many._space import Axis

Options = tuple[str, ...]
PLACES = ("name", "runs_dir")  # options that say where a run goes, not what it is


def rehearse(script: Script, calls: Sequence[Options]) -> list[dict[str, Any] | UserError]:
    """For each call its whole configuration, or the error with which it is refused."""
    found: dict[Run, dict[str, Any] | UserError] = {}
    with tempfile.TemporaryDirectory() as folder, Pool(script, cores()) as pool:
        runs = [
            Run(Path(folder, str(number)), "rehearsal", (*script.options, *options))
            for number, options in enumerate(calls)
        ]
        waiting = list(runs)
        while waiting or pool.running:
            while waiting and pool.has_room:
                pool.begin(waiting.pop(0), watched=True)
            for run, news in pool.wait(1):
                if isinstance(news, Ended):
                    found.setdefault(run, UserError(run.last_line.removeprefix("error: ")))
                else:  # it is about to begin
                    found[run] = yaml.safe_load((run.versions[-1] / "config.yaml").read_text(encoding="utf-8"))
                    pool.answer(run, go_on=False)
    return [found[run] for run in runs]


def check_space(script: Script, options: Options, axes: Sequence[Axis]) -> dict[str, Any]:
    """Tries the ends of ranges and all choices; the configuration that the options give without them.

    Raises:
        UserError: the options alone, or an option with one of its values, are refused. What is refused only together
            with another value is left to the search.
    """
    points = [
        [axis.words(axis.probes[number % len(axis.probes)]) for axis in axes]
        for number in range(max(len(axis.probes) for axis in axes))
    ]
    base, *found = rehearse(script, [options, *((*options, *sum(point, ())) for point in points)])
    if isinstance(base, UserError):
        raise base
    suspects = [
        words for point, result in zip(points, found, strict=True) if isinstance(result, UserError) for words in point
    ]
    for refused in rehearse(script, [(*options, *words) for words in suspects]):
        if isinstance(refused, UserError):
            raise refused
    return base


def without_places(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is, wherever it goes."""
    return {key: value for key, value in configuration.items() if key not in PLACES}


def difference(configuration: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration has that the base has not, as a recipe for `train.py --config`.

    Of a class that the base does not have, these are the arguments that differ from its own defaults.
    """
    changed: dict[str, Any] = {}
    for key, value in configuration.items():
        before = base.get(key)
        if key in PLACES or value == before:
            continue
        changed[key] = _difference_of_class(value, before) if isinstance(value, Mapping) else value
    return changed


def _difference_of_class(value: Mapping[str, Any], before: Any) -> dict[str, Any]:
    before = before if isinstance(before, Mapping) else {}
    if "class_path" not in value:
        return difference(value, before)
    own, others = _defaults(value["class_path"]), before.get("init_args", {})
    arguments = value.get("init_args", {})
    if value["class_path"] == before.get("class_path"):
        changed = difference(arguments, own | others)
    else:  # arguments of the base stay where this class has them, too
        changed = difference(arguments, own)
        changed |= {key: one for key, one in arguments.items() if key not in changed and others.get(key, one) != one}
    return {"class_path": value["class_path"], "init_args": changed}


def _defaults(class_path: str) -> dict[str, Any]:
    """The arguments that a class has without being told; none where it cannot be looked at."""
    module, _, name = class_path.rpartition(".")
    defaults: dict[str, Any] = {}
    with suppress(ImportError, AttributeError):
        for ancestor in reversed(inspect.getmro(getattr(importlib.import_module(module), name))):
            with suppress(ValueError, TypeError):
                parameters = inspect.signature(ancestor).parameters.values()
                defaults |= {parameter.name: parameter.default for parameter in parameters}
    return {key: _as_in_yaml(value) for key, value in defaults.items()}


def _as_in_yaml(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return list(value) if isinstance(value, tuple) else value
