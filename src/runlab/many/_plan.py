"""Plans the runs of a study: recipes, seeds and folders."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runlab._config_files import read_configuration
from runlab._errors import UserError
from runlab._files import write_atomically
from runlab._options import digest, from_environment, options_in
from runlab.many._run import Run

LONGEST_NAME, LONGEST_FOLDER = 80, 200  # characters of a study's name, and of a recipe's folder
# Options of `train.py` that the runs of a study or search do not take, with remedies.
NOT_OF_RUNS = {
    "config": "each recipe is one file; name it before the options",
    "seed_everything": "the seeds are 1, 2, ...; give --seeds, or --confirm for a search",
    "name": "runs are named automatically; remove this option",
    "runs_dir": "all runs share one folder; give a single --runs_dir",
    "ckpt_path": "runs start or resume automatically; remove this option",
    "resume": "runs start or resume automatically; remove this option",
    "print_config": "nothing would be trained; use it with train.py",
}


@dataclass(frozen=True)
class SeedRun(Run):
    """One recipe with one seed."""

    path: Path  # of the YAML file
    point: str  # the values of the grid, as `option=value` words; empty without a grid
    overrides: tuple[str, ...]  # the recipe's other arguments of `train.py`
    seed: int

    @property
    def config(self) -> str:
        """The name of the YAML file."""
        return self.path.stem

    @property
    def recipe(self) -> str:
        """The name of the configuration and the point."""
        return f"{self.config} {self.point}".strip()


def plan(
    study: Path,
    configs: Sequence[str],
    grid: Sequence[str],
    seeds: Iterable[int],
    overrides: Sequence[str],
    first: Sequence[str] = (),
) -> list[SeedRun]:
    """Returns all runs of a study in order of seed, so that every recipe runs once before any runs twice.

    Crosses the `configs` with all points of the `grid`, whose axes are `OPTION=VALUE,VALUE,...`. Every run gets the
    `overrides`, and before all other options `first`.

    Raises:
        UserError: a configuration is missing, an axis is malformed, an option is refused, or two recipes share a name.
    """
    axes = _axes(grid)
    for config in configs:
        if not Path(config).is_file():
            raise UserError(f"{config}: no such file; give YAML files before the options")
    refuse_own_options(overrides, [option for axis in axes for option, _ in axis[:1]])
    for before, word in itertools.pairwise(["", *overrides]):
        if word.endswith((".yaml", ".yml")) and not (before.startswith("--") or word.startswith("--")):
            raise UserError(f"{word}: give all configurations before the options")
    runs: dict[Path, SeedRun] = {}
    copies = {config: copy_of(study, Path(config)) for config in configs}
    for seed, crossing, config in itertools.product(seeds, itertools.product(*axes), configs):
        point = " ".join(f"{option.split('.')[-1]}={value}" for option, value in crossing)
        crossed = [word for option, value in crossing for word in as_words(option, value)]
        recipe, made_of = f"{Path(config).stem} {point}".strip(), (*overrides, *crossed)
        folder = study / "runs" / _folder_name(recipe) / f"seed_{seed}"
        options = (*first, "--config", str(copies[config]), *made_of, "--seed_everything", str(seed))
        if folder in runs:
            raise UserError(f"{recipe}: given twice; rename one of the files, or remove one of the values")
        runs[folder] = SeedRun(folder, f"{recipe} seed {seed}", options, Path(config), point, made_of, seed)
    return list(runs.values())


def _axes(grid: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Returns the options of a grid with their values."""
    axes: list[list[tuple[str, str]]] = []
    for axis in grid:
        if (found := re.fullmatch(r"([\w.]+)=(.+)", axis)) is None:
            raise UserError("give OPTION=VALUE,VALUE,..., such as model.n_hidden=100,200", grid=axis)
        if any(option == found[1] for given in axes for option, _ in given):
            raise UserError("the option is given twice; give all its values at once", grid=axis)
        axes.append([(found[1], value) for value in values(found[2])])
    return axes


def as_words(option: str, value: str) -> tuple[str, ...]:
    """Returns an option with its value as arguments; one word for what a parser may take for an option: -3e-05."""
    return (f"--{option}={value}",) if value.startswith("-") else (f"--{option}", value)


def refuse_own_options(overrides: Sequence[str], varied: Sequence[str] = ()) -> None:
    """Raises a UserError for an option that the study or search itself sets, or that starts no run.

    Args:
        overrides: the words for every run.
        varied: the options whose values vary.
    """
    short = ["--config" for word in overrides if re.match("-c(?!-)", word)]
    for option in [*short, *options_in(overrides), *(f"--{one}" for one in varied)]:
        if remedy := NOT_OF_RUNS.get(option.lstrip("-")):
            raise UserError(f"{option}: {remedy}")


def study_name(configs: Sequence[str], grid: Sequence[str]) -> str:
    """Returns the default name of a study: its recipes and the options of its grid.

    >>> study_name(["configs/a.yaml", "b.yaml"], ["model.n_hidden=100,200"])
    'a-vs-b-by-n_hidden'
    """
    options = [axis.split("=")[0].split(".")[-1] for axis in grid]
    name = _folder_name("-by-".join(["-vs-".join(Path(config).stem for config in configs), *options]))
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 7]}-{digest(name)}"


def _folder_name(recipe: str) -> str:
    name = recipe.replace(" ", "_")
    plain = re.sub(r"[^\w.=+-]+", "-", name)[:LONGEST_FOLDER]
    return plain if plain == name else f"{plain}-{digest(name)}"  # so that no two recipes share a folder


def values(text: str) -> list[str]:
    """Returns the values of an axis. A comma within brackets is part of a value: `[1,2],[3]` has two."""
    found, depth = [""], 0
    for character in text:
        depth += (character in "[({") - (character in "])}")
        if character == "," and depth == 0:
            found.append("")
        else:
            found[-1] += character
    return [value.strip() for value in found]


def copy_of(folder: Path, recipe: Path) -> Path:
    """Returns where a study or search keeps its copy of a recipe, so that this may be edited while runs train.

    It is the recipe itself if that names a file beside it, which a copy would not find.
    """
    with suppress(UserError):  # the script refuses what cannot be read
        if any(_is_file(recipe.parent / text) for text in _texts(read_configuration(str(recipe)))):
            return recipe
    return folder / "recipes" / f"{recipe.stem}.yaml"


def _texts(value: Any) -> Iterator[str]:
    """Yields the strings in a configuration."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _is_file(path: Path) -> bool:
    with suppress(OSError, ValueError):  # a string that is no path
        return path.is_file()
    return False


def record_recipes(folder: Path, runs: Sequence[SeedRun]) -> None:
    """Copies the recipes' files, and writes what defines them to `study.json`. Trained recipes stay the same.

    That is the file's digest, the arguments, and the options that the environment sets.

    Raises:
        UserError: a trained recipe has changed, a trained run is left out, so that the report would lose it, or the
            folder is not writable.
    """
    path = folder / "study.json"
    recipes = _recorded(path)
    contents = {run.path: run.path.read_bytes() for run in runs}
    for recipe, run in {run.recipe: run for run in runs}.items():
        digest_of_file = hashlib.sha256(contents[run.path]).hexdigest()
        own = {"sha256": digest_of_file, "arguments": list(run.overrides), "environment": from_environment()}
        before, old = own | recipes.get(recipe, {}), run.folder.parent
        alike = [one for one in recipes if one != recipe and _folder_name(one) == old.name]
        if (before != own or alike) and any(old.glob("*/version_*")):
            what = "a different file" if alike or before["sha256"] != own["sha256"] else "different options"
            raise UserError(f"{recipe} was trained there with {what}; use a new name or remove {old}", name=folder.name)
        recipes[recipe] = own
    planned = {run.folder for run in runs}
    lost = [one for one in sorted(folder.glob("runs/*/seed_*")) if one not in planned and any(one.glob("version_*"))]
    if lost:
        held = ", ".join([*(f"{one.parent.name} {one.name}" for one in lost[:3]), *(["..."] if len(lost) > 3 else [])])
        reason = f"that study also has {held}, which would be missing from its report"
        raise UserError(f"{reason}; include all its runs, or give a new name", name=folder.name)
    try:  # several machines may begin at the same time
        (folder / "recipes").mkdir(parents=True, exist_ok=True)
        for original, content in contents.items():
            if (copy := copy_of(folder, original)) != original:
                write_atomically(copy, content)
        write_atomically(path, (json.dumps(recipes, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}); give another folder", runs_dir=None) from error


def _recorded(path: Path) -> dict[str, Any]:
    """Returns what `record_recipes` has written to a file, if it exists; raises a UserError if it is damaged."""
    try:
        recipes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if all({"sha256", "arguments"} <= one.keys() for one in recipes.values()):
            return recipes
        raise ValueError("a recipe lacks its digest or its arguments")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged; remove it, or use a new name", name=None) from error
