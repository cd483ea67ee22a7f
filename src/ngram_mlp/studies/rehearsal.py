"""Calls of `train.py` that end before the first update: whether a recipe would be trained, and what it is in full."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ngram_mlp.errors import UserError
from ngram_mlp.studies.pool import Ended, Pool, cores
from ngram_mlp.studies.run import Run
from ngram_mlp.studies.space import Axis

Options = tuple[str, ...]
PLACES = ("name", "runs_dir")  # options that say where a run goes, not what it is


def rehearse(train_script: Path, calls: Sequence[Options]) -> list[dict[str, Any] | UserError]:
    """For each call its whole configuration, or the error with which it is refused."""
    found: dict[Run, dict[str, Any] | UserError] = {}
    with tempfile.TemporaryDirectory() as folder, Pool(train_script, cores()) as pool:
        runs = [Run(Path(folder, str(number)), "rehearsal", options) for number, options in enumerate(calls)]
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


def check_space(train_script: Path, options: Options, axes: Sequence[Axis]) -> dict[str, Any]:
    """Tries the ends of ranges and all choices; the configuration that the options give without them.

    Raises:
        UserError: the options alone, or an option with one of its values, are refused. What is refused only together
            with another value is left to the search.
    """
    points = [
        [axis.words(axis.probes[number % len(axis.probes)]) for axis in axes]
        for number in range(max(len(axis.probes) for axis in axes))
    ]
    base, *found = rehearse(train_script, [options, *((*options, *sum(point, ())) for point in points)])
    if isinstance(base, UserError):
        raise base
    suspects = [
        words for point, result in zip(points, found, strict=True) if isinstance(result, UserError) for words in point
    ]
    for refused in rehearse(train_script, [(*options, *words) for words in suspects]):
        if isinstance(refused, UserError):
            raise refused
    return base


def difference(configuration: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration has that the base has not, as a recipe for `train.py --config`; a class has its name."""
    changed = {}
    for key, value in configuration.items():
        before = base.get(key)
        if key in PLACES or value == before:
            continue
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            inner = difference(value, before)
            if value.get("class_path") != before.get("class_path"):
                inner = dict(value)
            elif "class_path" in value:
                inner = {"class_path": value["class_path"], **inner}
            changed[key] = inner
        else:
            changed[key] = value
    return changed
