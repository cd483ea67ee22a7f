"""A study: recipes, seeds, and the folder in which their runs lie."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ngram_mlp.cli.run_folder import versions
from ngram_mlp.durable import write_atomically
from ngram_mlp.errors import UserError

__all__ = ["Run", "part", "plan", "refuse_another_study"]

COMMAS = re.compile(r",(?![^\[]*\])")  # but those within a list


@dataclass(frozen=True)
class Run:
    """One recipe with one seed.

    Args:
        config: the name of the recipe's file.
        point: the values of the grid, as `option=value` words; empty without a grid.
        seed: what everything is drawn from.
        study: the study's folder.
        arguments: of `train.py`.
    """

    config: str
    point: str
    seed: int
    study: Path
    arguments: tuple[str, ...]

    @property
    def recipe(self) -> str:
        """The name of configuration and point together."""
        return f"{self.config} {self.point}".strip()

    @property
    def folder(self) -> Path:
        """The parent of the folders `version_N` of its attempts."""
        return self.study / "runs" / re.sub(r"[^\w.=+-]+", "-", self.recipe) / f"seed_{self.seed}"

    @property
    def versions(self) -> list[Path]:
        """The folders of its attempts, the newest last."""
        return [self.folder / f"version_{number}" for number in sorted(versions(self.folder))]

    @property
    def finished(self) -> Path | None:
        """The folder that holds its result, None before."""
        return next((path for path in self.versions if (path / "metrics.json").exists()), None)

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.folder.with_suffix(".log")

    @property
    def last_line(self) -> str:
        """The last line that it printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n") if self.log.exists() else []
        return next((line for line in reversed(lines) if line.strip()), "it printed nothing")


def plan(
    study: Path, configs: Sequence[str], grid: Sequence[str], seeds: range, overrides: Sequence[str]
) -> Iterator[Run]:
    """All runs of a study, seed by seed, so that every recipe has some before one has all.

    Args:
        study: the folder.
        configs: the YAML files.
        grid: axes, each `OPTION=VALUE,VALUE,...`; every configuration is crossed with all their points.
        seeds: the seeds.
        overrides: arguments of `train.py` for every run.
    """
    axes = []
    for axis in grid:
        if not re.fullmatch(r"[\w.]+=.+", axis):
            raise UserError(f"--grid {axis}: give OPTION=VALUE,VALUE,..., such as model.n_hidden=100,200")
        option, values = axis.split("=", 1)
        axes.append([(option, value.strip()) for value in COMMAS.split(values)])
    for config in configs:
        if not Path(config).is_file():
            raise UserError(f"{config}: there is no such configuration; give a YAML file, as for train.py --config")
    for seed, crossing, config in itertools.product(seeds, itertools.product(*axes), configs):
        point = " ".join(f"{option.split('.')[-1]}={value}" for option, value in crossing)
        crossed = [word for option, value in crossing for word in (f"--{option}", value)]
        arguments = ("--config", config, *overrides, *crossed, "--seed_everything", str(seed))
        yield Run(Path(config).stem, point, seed, study, arguments)


def refuse_another_study(folder: Path, runs: Sequence[Run]) -> None:
    """A study may grow by recipes and seeds, but a recipe of a name stays the same; `study.json` keeps it."""
    recipes = {}
    for run in runs:
        content = Path(run.arguments[1]).read_bytes()
        recipes[run.recipe] = {"sha256": hashlib.sha256(content).hexdigest(), "arguments": list(run.arguments[2:-2])}
    if len({run.folder for run in runs}) < len(runs):
        raise UserError("two recipes have the same name; rename one of the files, or leave one out")
    path = folder / "study.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for recipe, own in recipes.items():
        if recipe in before and before[recipe] != own:
            raise UserError(f"--name {folder.name}: holds another recipe {recipe}; give this study a name of its own")
    folder.mkdir(parents=True, exist_ok=True)
    # Shards may begin at the same moment.
    write_atomically(path, (json.dumps(before | recipes, indent=2) + "\n").encode())


def part(runs: Sequence[Run], shard: str) -> Sequence[Run]:
    """The K-th of N parts of the runs, for `shard` K/N."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard {shard}: give K/N, the K-th of N parts, such as 2/8")
    return runs[int(match[1]) - 1 :: int(match[2])]
