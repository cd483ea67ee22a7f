"""What all commands share: a user's mistake becomes one line and exit status 2."""

import difflib
import sys
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec

from jsonargparse import ArgumentParser
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from ngram_mlp.errors import UserError

__all__ = ["Parser", "command"]

P = ParamSpec("P")


class Parser(LightningArgumentParser):
    """A parser that tells an error in one line, with the nearest option where one was misspelt."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = " ".join(message.split())
        if "nrecognized arguments" in line:
            options = [option for action in self._actions for option in action.option_strings]
            wrong = next((word for word in line.split() if word.startswith("--")), "")
            near = difflib.get_close_matches(wrong.split("=")[0], options, n=1)
            line += f"; did you mean {near[0]}?" if near else "; --help lists the options"
        exit_with(line)


def command(main: Callable[P, None]) -> Callable[P, None]:
    """Wraps a command so that it ends with one line and status 2 where the user, not the code, was wrong."""

    @wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except (UserError, MisconfigurationException) as error:
            exit_with(" ".join(str(error).split()))

    return wrapped


def exit_with(line: str) -> NoReturn:
    """Prints the line as an error and exits with status 2."""
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(2)
