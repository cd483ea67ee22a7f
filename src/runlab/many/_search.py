"""Searches a space for the best recipe, and tests whether that is better than the initial one."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from runlab._called import called
from runlab._command import command, open_console
from runlab._errors import UserError, require_at_least
from runlab._options import as_assignments
from runlab._parser import OneLineParser, PlainParser
from runlab.many._plan import refuse_own_options
from runlab.many._script import Script, cores


@command
def search_command(script: Script, args: Sequence[str] | None = None) -> None:
    """Starts or resumes a search; exits with status 1 if no trial ended with a finite value."""
    args = sys.argv[1:] if args is None else args
    parser = _parser()
    options, rest = parser.parse_known_args(args)
    require_at_least(1, trials=options.trials, jobs=options.jobs)
    require_at_least(0, confirm=options.confirm)
    try:
        from runlab.many._searching import Search
        from runlab.many._space import from_words, read_space
        from runlab.many._storage import quiet_optuna, without_password
        from runlab.many._trials import Goal
    except ImportError as error:
        raise UserError(f"a search needs {error.name}, which is not installed; `make search` installs it") from error
    of_sampler, rest = _arguments_of("sampler", rest)
    of_pruner, overrides = _arguments_of("pruner", rest)
    values = from_words(options.space)
    axes = read_space(values)
    refuse_own_options(overrides, [axis.option for axis in axes])
    with quiet_optuna():
        sampler = _sampler(options.sampler, of_sampler, axes)
        pruner = _pruner(options.pruner, of_pruner)
    goal = Goal(options.trials, options.metric, options.direction, options.max_parameters, options.budget_updates)
    found = Search(
        script,
        options.config,
        values,
        goal,
        overrides=overrides,
        sampler=sampler,
        pruner=pruner,
        command=[*as_assignments(), *called(), *(without_password(arg) for arg in args)],
        console=open_console(),
        **{name: getattr(options, name) for name in ("name", "runs_dir", "storage", "jobs", "confirm")},
    ).run()
    if found is not None and found.best is None:
        raise SystemExit(1)


def _parser() -> argparse.ArgumentParser:
    parser = PlainParser(
        description="Searches a space of recipes with Optuna and retrains the best recipe and the initial one with "
        "fresh seeds. All other options are passed to every run, as for train.py. Repeat the command to resume an "
        "interrupted search.",
        epilog="Values of a space: LOW..HIGH (integers if all numbers are whole), optionally followed by `log` or "
        "`step S`; or A,B,C.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("config", help="The initial recipe: a YAML file, as for train.py --config.")
    space = "An option and its values, such as model.n_hidden=50..400; may be repeated."
    add("--space", action="append", default=[], metavar="OPTION=VALUES", help=space)
    add(
        "--trials",
        type=int,
        default=50,
        help="The total number of trials, including those of earlier calls. (default: 50)",
    )
    add("--metric", default="val/loss", help="The validation metric to optimize. (default: val/loss)")
    add("--direction", choices=("minimize", "maximize"), help="(default: maximize an accuracy, minimize anything else)")
    add("--max_parameters", type=int, metavar="N", help="Larger networks are not trained, and do not count.")
    add("--budget_updates", type=int, metavar="N", help="Start no further trial after this many updates in total.")
    add("--confirm", type=int, default=5, help="The number of fresh seeds to confirm the best trial with. (default: 5)")
    add("--name", default="search", help="The search goes to RUNS_DIR/search/NAME. (default: search)")
    add("--runs_dir", default="runs", help="The folder of all runs. (default: runs)")
    add("--jobs", type=int, default=cores(), help="Runs to train at the same time. (default: one per core)")
    where = "The URL of a database, which several machines may share. (default: a file in the search's folder)"
    add("--storage", metavar="URL", help=where)
    classes = "of Optuna, and its arguments as --{0}.NAME VALUE. (default: {1})"
    add("--sampler", metavar="CLASS", default="TPESampler", help="A sampler " + classes.format("sampler", "TPESampler"))
    pruner = f"A pruner {classes.format('pruner', 'MedianPruner')} With none, all trials run to the end."
    add("--pruner", metavar="CLASS", default="MedianPruner", help=pruner)
    return parser


def _arguments_of(kind: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the words that are arguments of a class of this kind, and the other words."""
    taken: list[str] = []
    others: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if not word.startswith(f"--{kind}."):
            others.append(word)
        else:
            taken += [word] if "=" in word else [word, next(waiting, "")]
    return taken, others


def _sampler(name: str, words: Sequence[str], axes: Sequence[Any]) -> Any:
    from optuna import samplers

    if name == "GridSampler":
        words = [*words, f"--sampler.search_space={json.dumps({axis.option: axis.grid for axis in axes})}"]
    if name == "TPESampler":  # makes searches with one job repeatable, as Search does by default
        words = ["--sampler.seed=0", *words]
    return _made("sampler", samplers.BaseSampler, samplers, name, words)


def _pruner(name: str, words: Sequence[str]) -> Any:
    from optuna import pruners

    if name == "none":
        return pruners.NopPruner()
    return _made("pruner", pruners.BasePruner, pruners, name, words)


@contextmanager
def _refused(kind: str, name: str) -> Iterator[None]:
    """Turns a missing package, or arguments that a class of Optuna refuses, into a one-line error."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"needs {error.name or 'a package'}, which is not installed; install it", **{kind: name}
        ) from error
    except ValueError as error:
        cause: BaseException = error
        while (inner := cause.__cause__ or cause.__context__) is not None:
            cause = inner
        raise UserError(" ".join(str(cause).split()), **{kind: name}) from error


def _made(kind: str, base: type, library: Any, name: str, words: Sequence[str]) -> Any:
    """Returns an instance of a class of Optuna, or of the user's own by its path, made from arguments."""
    parser: Any = OneLineParser()
    parser.add_subclass_arguments(base, kind)
    path = f"{library.__name__}.{name}" if hasattr(library, name) else name
    config = parser.parse_args([f"--{kind}={path}", *words])
    for key, value in config[kind].init_args.as_dict().items():
        if isinstance(value, str) and value.isdecimal():  # the argument may also be a word
            config[kind].init_args[key] = int(value)
    with _refused(kind, name):
        return parser.instantiate_classes(config)[kind]
