"""What all commands share: a user's mistake becomes one line and exit status 2."""

import difflib
import errno
import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ClassVar, NoReturn, ParamSpec

from jsonargparse import Namespace, set_parsing_settings
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser

from ngram_mlp.errors import UserError
from ngram_mlp.models import LanguageModel
from ngram_mlp.terminal import printable

__all__ = ["Parser", "command", "quiet_threads"]

P = ParamSpec("P")
set_parsing_settings(add_print_completion_argument=True)
# No room left on the device, beyond the user's quota, beyond the largest file that is allowed.
DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Parser(LightningArgumentParser):
    """A parser that tells an error in one line, with the nearest option where one was misspelt."""

    # Of the class, since the parser makes further ones for nested options.
    arguments: ClassVar[Sequence[str]] = ()
    nested: ClassVar[bool] = False

    def parse_args(self, args: Sequence[str] | None = None, **kwargs: Any) -> Namespace:  # type: ignore[override]
        args = sys.argv[1:] if args is None else args
        if Parser.nested:
            return super().parse_args(list(args), **kwargs)
        Parser.arguments, Parser.nested = args, True
        try:
            return super().parse_args(list(args), **kwargs)
        finally:
            Parser.nested = False

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = " ".join(message.split())
        if found := re.match(r"[Uu]nrecognized arguments: (--[^ =]+)", line) or re.match(r"Option '(.+)' is not", line):
            line = f"there is no option {self._as_typed(found[1])}{self._nearest(found[1])}"
        elif found := re.match(r'Parser key "([^"]+)": (.*)', line):
            line = f"{self._as_typed(found[1])}: {found[2]}"
            if "Unable to load config" in line:
                line = (
                    f"{self._as_typed(found[1])}: is a group of options, such as --model.norm.kind; set them one by one"
                )
        exit_with(line)

    def _as_typed(self, key: str) -> str:
        """The option that the parser calls by `key`, the last part of its name, as the user typed it."""
        typed = (argument.split("=")[0] for argument in self.arguments if argument.startswith("--"))
        return next((option for option in typed if option.endswith(key.lstrip("-"))), key)

    def _nearest(self, option: str) -> str:
        """A question for the option that may have been meant, among the parser's and the models' own."""
        models = LanguageModel.__subclasses__()
        options = [string for action in self._actions for string in action.option_strings]
        options += [name for model in models for name in inspect.signature(model).parameters]
        near = difflib.get_close_matches(option, options, n=1)
        if not near:
            return "; --help lists the options"
        # A nested parser knows only the last part of the names.
        typed, known = self._as_typed(option), option.lstrip("-")
        return f"; did you mean {typed.removesuffix(known) + near[0].lstrip('-') if typed != option else near[0]}?"


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
            mistake: BaseException | None = error
            # The parser wraps what a constructor raises.
            while mistake is not None and not isinstance(mistake, (UserError, MisconfigurationException)):
                mistake = mistake.__cause__
            if mistake is not None:
                exit_with(" ".join(str(mistake).split()))
            if (full := _full_disk(error)) is not None:
                exit_with(f"{full.filename or 'a file of the run'} cannot be written ({full.strerror}); make room")
            raise

    return wrapped


def _full_disk(error: BaseException | None) -> OSError | None:
    """The error of a full disk that led to this one: loggers wrap it, and fail once more when they are closed."""
    while error is not None and not (isinstance(error, OSError) and error.errno in DISK_IS_FULL):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Has threads tell nothing of a full disk: TensorBoard's writer prints a traceback, then raises it here as well."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if _full_disk(args.exc_value) is None:
            before(args)

    threading.excepthook = hook
    yield
    threading.excepthook = before


def exit_with(line: str) -> NoReturn:
    """Prints the line as an error and exits with status 2."""
    print(f"error: {printable(line)}", file=sys.stderr)
    raise SystemExit(2)
