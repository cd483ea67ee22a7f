"""Calls the script without training, to check a recipe and to read its whole configuration."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from runlab._errors import UserError
from runlab.many._pool import Pool
from runlab.many._run import Run
from runlab.many._script import Script, cores
from runlab.many._space import Axis

Options = tuple[str, ...]
PLACES = ("name", "runs_dir")  # options that locate a run without defining it


def dry_run(script: Script, calls: Sequence[Options]) -> list[dict[str, Any] | UserError]:
    """Returns for each call its whole configuration, or the error that refuses it."""
    with TemporaryDirectory() as folder, Pool(script) as pool, ThreadPoolExecutor(cores()) as threads:

        def configuration(number: int) -> dict[str, Any] | UserError:
            run = Run(Path(folder, str(number)), "dry run", (*script.options, *calls[number]))
            found: list[dict[str, Any]] = []

            def stop(_: object) -> bool:  # called when the run is about to begin
                found.append(yaml.safe_load((run.versions[-1] / "config.yaml").read_text(encoding="utf-8")))
                return False

            pool.train(run, stop)
            return found[0] if found else UserError(run.last_line.removeprefix("error: "))

        return list(threads.map(configuration, range(len(calls))))


def check_space(script: Script, options: Options, axes: Sequence[Axis]) -> dict[str, Any]:
    """Tries both ends of each range and every choice; returns the configuration of the options alone.

    Raises:
        UserError: the script refuses the options alone, or with one of the values. Values that it refuses only in
            combination are left to the search.
    """
    points = [
        [axis.words(axis.probes[number % len(axis.probes)]) for axis in axes]
        for number in range(max(len(axis.probes) for axis in axes))
    ]
    base, *found = dry_run(script, [options, *((*options, *sum(point, ())) for point in points)])
    if isinstance(base, UserError):
        raise base
    suspects = [
        words for point, result in zip(points, found, strict=True) if isinstance(result, UserError) for words in point
    ]
    for refused in dry_run(script, [(*options, *words) for words in suspects]):
        if isinstance(refused, UserError):
            raise refused
    return base


def without_places(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration without PLACES."""
    return {key: value for key, value in configuration.items() if key not in PLACES}


def difference(configuration: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a configuration changes about the base, as a recipe for `train.py --config`.

    For a class that the base lacks, keeps the arguments that differ from the class's defaults.
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
    else:  # the script keeps arguments of the base that this class also has
        changed = difference(arguments, own)
        changed |= {key: one for key, one in arguments.items() if key not in changed and others.get(key, one) != one}
    return {"class_path": value["class_path"], "init_args": changed}


def _defaults(class_path: str) -> dict[str, Any]:
    """Returns the default arguments of a class; {} if it cannot be inspected."""
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
