"""Gives every command a console, and turns a user's mistake into one line and exit status 2."""

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
    """The reader of the output, such as `head`, has closed it."""


def show(line: str) -> None:
    """Prints a line; raises OutputClosed if the output is closed."""
    try:
        print(line)
    except BrokenPipeError as error:
        raise OutputClosed from error


def command(main: Callable[P, None]) -> Callable[P, None]:
    """Wraps a command so that a user's mistake ends it with one line and status 2; bugs raise as usual."""

    @wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # escape the characters that the console lacks
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
    """Returns the command line: the `args` that the command was called with, else those of the process."""
    given = signature(main).bind(*args, **kwargs).arguments.get("args")
    return sys.argv[1:] if given is None else given


def open_console(loggers: Sequence[str] = ("runlab",), quiet: bool = False) -> Console:
    """Returns a console that also shows the log messages of packages.

    Args:
        loggers: the names of these packages.
        quiet: print nothing.
    """
    console = _Console(soft_wrap=True, markup=False, highlight=False, quiet=quiet)
    for name in loggers:
        own = logging.getLogger(name)
        own.setLevel(logging.INFO)
        own.handlers = [ConsoleHandler(console)]
    return console


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        """Prints the objects; outside terminals and notebooks, without the trailing blanks of tables."""
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
        raise OutputClosed  # rich would end the process silently


class ConsoleHandler(logging.Handler):
    """Prints log messages above the progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(re.sub("^engine ", "engine  ", record.getMessage()))


def _about_surroundings(error: BaseException) -> str | None:
    """Returns the line about the full disk, lack of memory or inaccessible file that led to the error; else None."""
    if cause := full_disk(error):
        what = cause.filename or "a file of the run, or the output,"
        return f"{what} cannot be written ({cause.strerror}); free some space"
    if isinstance(error, NOT_ALLOWED) and error.filename is not None:
        return f"{error.filename} cannot be read or written ({error.strerror}); give another path, or fix this one"
    return about_memory(error)
