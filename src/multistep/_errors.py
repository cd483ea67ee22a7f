"""Defines the exceptions of this package."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning_fabric.utilities.exceptions import MisconfigurationException


class CannotFuseError(Exception):
    """Raised if the fused engine cannot train this; the message gives the user the reason."""


class EngineUnavailableError(MisconfigurationException, ValueError):
    """Raised if the requested engine cannot train this; the message says why, and which engine can."""

    argument = "engine"  # the one at fault


class EngineMismatchError(RuntimeError):
    """Raised if compiled updates no longer agree with the module's own step; the message says where they differ."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns any exception into a one-line CannotFuseError that says what the module cannot be, such as compiled."""
    try:
        yield
    except CannotFuseError:
        raise
    except Exception as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, CannotFuseError):
            raise cause from error
        lines = str(error).strip().splitlines() or [""]
        raise CannotFuseError(f"it cannot be {what} ({type(error).__name__}: {lines[0][:200]})") from error
