"""What all commands share: a console, and an end with one line and status 2 where the user was wrong."""

import io
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec

from rich.console import Console

from runlab._errors import full_disk
from runlab._mistakes import about_memory, exit_with, mistake_in

P = ParamSpec("P")
NOT_ALLOWED = (PermissionError, IsADirectoryError, NotADirectoryError)


class OutputClosed(BrokenPipeError):
    """Whoever reads the output has read enough, such as `head`."""


def show(line: str) -> None:
    """Prints a line; raises OutputClosed where nobody reads it."""
    try:
        print(line)
    except BrokenPipeError as error:
        raise OutputClosed from error


def command(main: Callable[P, None]) -> Callable[P, None]:
    """Wraps a command so that it ends with one line and status 2 where the user, not the code, was wrong."""

    @wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a console that lacks a character shows its escape
                stream.reconfigure(errors="backslashreplace")
        try:
            main(*args, **kwargs)
        except OutputClosed:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise SystemExit(141) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            if (line := mistake_in(error, _typed(main, args, kwargs)) or _about_surroundings(error)) is None:
                raise
            exit_with(line)

    return wrapped


def _typed(main: Callable[P, None], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[str]:
    """The words that a command was called with: those that it was given, else those of the process."""
    given = signature(main).bind(*args, **kwargs).arguments.get("args")
    return sys.argv[1:] if given is None else given


def open_console(loggers: Sequence[str] = ("runlab",), quiet: bool = False) -> Console:
    """Returns a console, which shows what packages log, too.

    Args:
        loggers: the names of these packages.
        quiet: shows nothing.
    """
    console = _Console(soft_wrap=True, markup=False, highlight=False, quiet=quiet)
    for name in loggers:
        own = logging.getLogger(name)
        own.setLevel(logging.INFO)
        own.handlers = [ConsoleHandler(console)]
    return console


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        """Prints; where that is no terminal, without the blanks with which tables fill their lines."""
        if self.is_terminal or self.is_jupyter:
            super().print(*objects, **options)
            return
        with self.capture() as captured:
            super().print(*objects, **options)
        try:
            self.file.write("\n".join(line.rstrip() for line in captured.get().split("\n")))
            self.file.flush()
        except BrokenPipeError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        raise OutputClosed  # rich would end the process without a word


class ConsoleHandler(logging.Handler):
    """Prints log messages above the progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(re.sub("^engine ", "engine  ", record.getMessage()))


def _about_surroundings(error: BaseException) -> str | None:
    """The line about a full disk, too little memory or a file that may not be touched, if one led to the error."""
    if cause := full_disk(error):
        what = cause.filename or "a file of the run, or the output,"
        return f"{what} cannot be written ({cause.strerror}); make room"
    if isinstance(error, NOT_ALLOWED) and error.filename is not None:
        return f"{error.filename} cannot be read or written ({error.strerror}); give another, or change what is there"
    return about_memory(error)
