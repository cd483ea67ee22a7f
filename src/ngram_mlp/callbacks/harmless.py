"""Lets observers fail without ending the run."""

import logging
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runlab import Diverged, UserError, full_disk, printable

log = logging.getLogger(__name__)
strict = False  # if True, failures raise; tests set it, so that no diagnosis fails unnoticed


def is_an_end(exception: BaseException) -> bool:
    """Returns whether a signal or divergence ended a run, rather than a mistake or bug; it then has figures."""
    return isinstance(exception, (KeyboardInterrupt, SystemExit, Diverged))


@contextmanager
def harmless(who: str, trainer: Any, update: int | None = None) -> Iterator[None]:
    """Turns an exception into one line, so that a diagnosis never costs a run (promise 9).

    Three kinds still end the run: a `UserError`, because an option must change; a full disk, which affects more than
    the diagnosis; and, with the trainer's `detect_anomaly`, every exception, so that its traceback is printed.
    """
    try:
        yield
    except Exception as error:
        if strict or trainer._detect_anomaly or isinstance(error, UserError) or full_disk(error):
            raise
        what = printable(textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ..."))
        when = f"at update {trainer.global_step if update is None else update:,}"
        log.warning("%s failed %s and was switched off: %s (use detect_anomaly for the traceback)", who, when, what)
