"""Converts between command-line options, configurations and the names of runs."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

LONGEST_NAME = 60
GROUPS = ("model", "data", "trainer")  # of options, in every LightningCLI


def options_in(words: Sequence[str]) -> dict[str, str]:
    """Returns the options among the words of a command line, with their values; "" for an option without one."""
    options: dict[str, str] = {}
    for word, after in zip(words, [*words, ""][1:], strict=True):
        if word.startswith("--"):
            option, given, value = word.partition("=")
            options[option.removesuffix("+")] = value if given else after if not after.startswith("--") else ""
    return options


def from_environment(groups: Sequence[str] = GROUPS) -> list[str]:
    """Returns the options of these groups that the environment sets, as words of a command line.

    `PL_TRAINER__MAX_STEPS=100` (LightningCLI's form) and `PL_TRAINER_MAX_STEPS=100` (the trainer's) both give
    `--trainer.max_steps=100`.
    """
    found = ((_setting(variable, groups), value) for variable, value in sorted(os.environ.items()))
    return [f"--{option}={value}" for option, value in found if option]


def as_assignments(groups: Sequence[str] = GROUPS) -> list[str]:
    """Returns `env NAME=VALUE ...` for the variables that set options of these groups; nothing if none does."""
    found = [f"{name}={value}" for name, value in sorted(os.environ.items()) if _setting(name, groups)]
    return ["env", *found] if found else []


def _setting(variable: str, groups: Sequence[str]) -> str:
    """Returns the option that a variable of the environment sets; "" if it sets none of these groups."""
    match = re.fullmatch(rf"PL_({'|'.join(groups)})(?:__?(\w+))?", variable, re.IGNORECASE)
    return ".".join(filter(None, match.groups())).lower().replace("__", ".") if match else ""


def words_for(typed: Sequence[str], groups: Sequence[str], places: Sequence[str] = ()) -> str:
    """Returns a folder name for what a command line changes about a recipe; "" if it changes nothing.

    >>> words_for(["--model.n_hidden", "300", "--model.optimizer.lr=0.05", "--trainer.max_steps", "9"], ["model"])
    'n_hidden=300 lr=0.05'

    Args:
        typed: the words of the command line.
        groups: the options, or groups of them, that make up a recipe.
        places: the ones among them that only locate files.
    """
    given = {option.removeprefix("--"): value for option, value in options_in(typed).items()}
    values = {o: value for o, value in given.items() if o not in places and o.partition(".")[0] in groups}
    short = dict(zip(values, shortened_options([*values]), strict=True))
    name = " ".join(f"{short[option]}={value}" if value else short[option] for option, value in values.items())
    plain = re.sub(r"[^\w.=+ -]+", "_", re.sub(r"(?<=[*/,:])\s+|\s+(?=[*/,:])", "", name))
    if plain != name or len(plain) > LONGEST_NAME:  # so that two recipes do not share a folder
        plain = f"{plain[: LONGEST_NAME - 7]}-{digest(name)}"
    return plain


def digest(name: str) -> str:
    """Returns six characters that distinguish names whose shortened forms are equal."""
    return hashlib.sha256(name.encode()).hexdigest()[:6]


def shortened_options(options: Sequence[str]) -> list[str]:
    """Returns each option's fewest last words that distinguish it."""
    short = []
    for option in options:
        words = option.split(".")
        names = (".".join(words[-count:]) for count in range(1, len(words) + 1))
        alone = (name for name in names if sum(f".{one}".endswith(f".{name}") for one in options) == 1)
        short.append(next(alone, option))  # the whole name may be the end of another
    return short


def flattened(nested: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each option of a configuration and its value, leaving `class_path` and `init_args` out of its name."""
    for key, value in nested.items():
        name = prefix.removesuffix(".") if key == "class_path" else prefix if key == "init_args" else f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{name.removesuffix('.')}.")
        else:
            yield name, value
