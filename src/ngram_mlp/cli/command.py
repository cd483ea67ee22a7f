"""What all commands share: the console, and an end with one line and status 2 where the user was wrong."""

import errno
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec

from rich.console import Console

from ngram_mlp.cli.parser import exit_with, mistake_in
from ngram_mlp.training.processes import rank

P = ParamSpec("P")
# No room left on the device, beyond the user's quota, beyond the largest file that is allowed.
DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
            if (mistake := mistake_in(error)) is not None:
                exit_with(mistake)
            if (full := _full_disk(error)) is not None:
                exit_with(f"{full.filename or 'a file of the run'} cannot be written ({full.strerror}); make room")
            raise

    return wrapped


def open_console() -> Console:
    """A console that shows, in the first process alone, this package's own words, and Lightning's warnings."""
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
    """Prints the log messages of this package above the progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(record.getMessage())


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Silences threads about a full disk: TensorBoard's writer prints a traceback, and then raises in this thread, too."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if _full_disk(args.exc_value) is None:
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _full_disk(error: BaseException | None) -> OSError | None:
    """The error of a full disk that led to this one: loggers wrap it, and fail once more when they are closed."""
    while error is not None and not (isinstance(error, OSError) and error.errno in DISK_IS_FULL):
        error = error.__cause__ or error.__context__
    return error
