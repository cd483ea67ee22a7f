"""What all commands share: a parser, a console, and an end with one line and status 2 where the user was wrong."""

import argparse
import difflib
import inspect
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, ClassVar, NoReturn, ParamSpec

from jsonargparse import Namespace, set_parsing_settings
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser
from rich.console import Console

from ngram_mlp.errors import UserError, full_disk, printable
from ngram_mlp.models import LanguageModel
from ngram_mlp.training.processes import rank

P = ParamSpec("P")
set_parsing_settings(add_print_completion_argument=True)


def command(main: Callable[P, None]) -> Callable[P, None]:
    """Wraps a command so that it ends with one line and status 2 where the user, not the code, was wrong."""

    @wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            if (line := mistake_in(error) or _about_full_disk(error)) is None:
                raise
            exit_with(line)

    return wrapped


def open_console() -> Console:
    """A console for the first process alone, which shows this package's own words and Lightning's warnings."""
    console = Console(soft_wrap=True, markup=False, highlight=False, quiet=rank() > 0)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # its table is what was asked for
    own = logging.getLogger("ngram_mlp")
    own.setLevel(logging.INFO)
    own.handlers = [_ConsoleHandler(console)]
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own affair
    warnings.filterwarnings("ignore", message="`max_epochs` was not set")  # refused in our own words
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")  # as with --observe.cadence off
    return console


class _ConsoleHandler(logging.Handler):
    """Prints log messages above the progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(record.getMessage())


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Silences threads about a full disk: TensorBoard's writer prints a traceback before it raises in this one."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if full_disk(args.exc_value) is None:
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


class PlainParser(argparse.ArgumentParser):
    """For what jsonargparse's cannot do: leave the options alone that it does not know."""

    def error(self, message: str) -> NoReturn:
        exit_with(message)


class Parser(LightningArgumentParser):
    """A parser that reports an error in one line, with the nearest option where one was misspelt."""

    # Of the class, since the parser makes further ones for nested options.
    typed: ClassVar[Sequence[str]] = ()  # the options of the command line
    known: ClassVar[Sequence[str]] = ()  # all that there are

    def parse_args(self, args: Sequence[str] | None = None, **kwargs: Any) -> Namespace:  # type: ignore[override]
        args = sys.argv[1:] if args is None else args
        if not getattr(self, "_inner_parser", False):  # one for nested options
            remember_options(args, self)
        return super().parse_args(args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = mistake_in(ex) or " ".join(message.split())
        if found := re.match(r"(?:[Uu]nrecognized arguments: (?=--)|Option ')([^ =']+)", line):
            option = _as_typed(found[1])
            near = difflib.get_close_matches(f"--{option.lstrip('-')}", Parser.known, n=1)
            hint = f"did you mean {near[0]}?" if near else "--help lists the options"
            if option in near:  # of another model
                hint = "the model that is chosen does not have it; name one that has, such as --model MLP, before it"
            line = f"there is no option {option}; {hint}"
        elif found := re.match(r'Parser key "([^"]+)": (.*)', line):
            reason = "is a group of options; set them one by one" if "Unable to load config" in line else found[2]
            line = f"{_as_typed(found[1])}: {reason}"
        exit_with(line)


def remember_options(args: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Notes, for the words of an error, which options were typed and which there are.

    Those of the models come from their constructors: the parser knows them only when it has read which one is trained.
    """
    Parser.typed = [arg.split("=")[0].removesuffix("+") for arg in args if arg.startswith("--")]
    known = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    models: list[type[LanguageModel]] = [LanguageModel, *LanguageModel.__subclasses__()]
    for model in models:
        for name, parameter in inspect.signature(model).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:  # the options of LanguageModel
                continue
            nested = fields(parameter.default) if is_dataclass(parameter.default) else ()
            known += [f"--model.{name}", *(f"--model.{name}.{field.name}" for field in nested)]
    Parser.known = known


def _as_typed(key: str) -> str:
    """The option that ends with `key`, as it was typed, or as it could have been; else the key itself."""
    ends = tuple(dashes + key.lstrip("-") for dashes in ("--", "."))
    return next((option for option in (*Parser.typed, *Parser.known) if option.endswith(ends)), key)


def mistake_in(error: BaseException | None) -> str | None:
    """The line about a user's mistake that led to an error, which the parser may have wrapped; None for a bug."""
    while error is not None and not isinstance(error, (UserError, MisconfigurationException)):
        error = error.__cause__
    if error is None:
        return None
    line, argument = " ".join(str(error).split()), getattr(error, "argument", None)
    return line if argument is None else line.replace(argument, _as_typed(argument), 1)


def _about_full_disk(error: BaseException | None) -> str | None:
    """The line about a full disk that led to an error, if one did."""
    cause = full_disk(error)
    return f"{cause.filename or 'a file of the run'} cannot be written ({cause.strerror}); make room" if cause else None


def exit_with(line: str) -> NoReturn:
    """Prints the line as an error and exits with status 2."""
    print(f"error: {printable(line)}", file=sys.stderr)
    raise SystemExit(2)
