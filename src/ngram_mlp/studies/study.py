"""A study: recipes, seeds, and the folder in which their runs lie."""

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ngram_mlp.errors import UserError
from ngram_mlp.runs.files import versions, write_atomically


@dataclass(frozen=True)
class Run:
    """One recipe with one seed."""

    path: Path  # of the YAML file
    point: str  # the values of the grid, as `option=value` words; empty without a grid
    overrides: tuple[str, ...]  # what else the recipe is made of, as arguments of `train.py`
    seed: int
    study: Path  # the study's folder

    @property
    def config(self) -> str:
        """The name of the YAML file."""
        return self.path.stem

    @property
    def recipe(self) -> str:
        """The name of configuration and point together."""
        return f"{self.config} {self.point}".strip()

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of `train.py`."""
        where = ("--runs_dir", str(self.folder.parent), "--name", self.folder.name)
        # Without observing, which is for a look at one run, unless the recipe or the overrides ask for it.
        unobserved = ("--observe.every_n_updates", "off")
        return (*unobserved, "--config", str(self.path), *self.overrides, "--seed_everything", str(self.seed), *where)

    @property
    def folder(self) -> Path:
        """The parent of the folders `version_N` of its attempts."""
        name = self.recipe.replace(" ", "_")
        if (plain := re.sub(r"[^\w.=+-]+", "-", name)) != name:  # so that no two recipes share a folder
            plain += "-" + hashlib.sha256(name.encode()).hexdigest()[:6]
        return self.study / "runs" / plain / f"seed_{self.seed}"

    @property
    def versions(self) -> list[Path]:
        """Its attempts, the newest last."""
        return [self.folder / f"version_{number}" for number in sorted(versions(self.folder))]

    @property
    def finished(self) -> Path | None:
        """The folder that holds its result, None before."""
        return next((path for path in self.versions if (path / "metrics.json").exists()), None)

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    @property
    def last_line(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n") if self.log.exists() else []
        return next((line for line in reversed(lines) if line.strip()), "it printed nothing")


def plan(study: Path, configs: Sequence[str], grid: Sequence[str], seeds: range, overrides: Sequence[str]) -> list[Run]:
    """All runs of a study, seed by seed, so that every recipe has a run before one has all of its runs.

    Every one of the `configs` is crossed with all points of the `grid`, whose axes are `OPTION=VALUE,VALUE,...`; the
    `overrides` are for every run.

    Raises:
        UserError: a configuration is not there, an axis cannot be read, or two recipes have one name.
    """
    axes = []
    for axis in grid:
        if (found := re.fullmatch(r"([\w.]+)=(.+)", axis)) is None:
            raise UserError("give OPTION=VALUE,VALUE,..., such as model.n_hidden=100,200", grid=axis)
        axes.append([(found[1], value) for value in _values(found[2])])
    for config in configs:
        if not Path(config).is_file():
            raise UserError(f"{config}: there is no such configuration; give YAML files before the options")
    for before, word in itertools.pairwise(["", *overrides]):
        if word.endswith((".yaml", ".yml")) and not before.startswith("--"):
            raise UserError(f"{word}: give all configurations before the options")
    runs: dict[Path, Run] = {}
    for seed, crossing, config in itertools.product(seeds, itertools.product(*axes), configs):
        point = " ".join(f"{option.split('.')[-1]}={value}" for option, value in crossing)
        crossed = [word for option, value in crossing for word in (f"--{option}", value)]
        run = Run(Path(config), point, (*overrides, *crossed), seed, study)
        if run.folder in runs:
            raise UserError(f"{run.recipe}: is given twice; rename one of the files, or leave one of the values out")
        runs[run.folder] = run
    return list(runs.values())


def _values(text: str) -> list[str]:
    """The values of an axis: `[1,2],[3]` are two, since a comma within brackets is part of a value."""
    values, depth = [""], 0
    for character in text:
        depth += (character in "[({") - (character in "])}")
        if character == "," and depth == 0:
            values.append("")
        else:
            values[-1] += character
    return [value.strip() for value in values]


def record_recipes(folder: Path, runs: Sequence[Run]) -> None:
    """Writes what recipes are made of into `study.json`: a study may grow, but what has been trained stays the same.

    Raises:
        UserError: a recipe that has been trained is another than it was, or the folder cannot be written.
    """
    path = folder / "study.json"
    recipes = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for recipe, run in {run.recipe: run for run in runs}.items():
        own = {"sha256": hashlib.sha256(run.path.read_bytes()).hexdigest(), "arguments": list(run.overrides)}
        before, old = recipes.get(recipe, own), run.folder.parent
        if before != own and any(old.glob("*/version_*")):
            what = "another file" if before["arguments"] == own["arguments"] else "other options"
            raise UserError(f"{recipe} was trained there with {what}; use a new name or remove {old}", name=folder.name)
        recipes[recipe] = own
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(recipes, indent=2) + "\n").encode())  # shards may begin at one moment
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}); give another folder", runs_dir=None) from error


def part(runs: Sequence[Run], shard: str) -> Sequence[Run]:
    """The K-th of N parts of the runs, for `shard` K/N."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError("give K/N, the K-th of N parts, such as 2/8", shard=shard)
    return runs[int(match[1]) - 1 :: int(match[2])]
