"""The exceptions of this package."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning_fabric.utilities.exceptions import MisconfigurationException


class CannotFuseError(Exception):
    """Why the fused engine cannot train this, in words for the user."""


class EngineUnavailableError(MisconfigurationException, ValueError):
    """The engine that was asked for cannot train this; the message says why, and which engine can."""

    argument = "engine"  # which is at fault


class EngineMismatchError(RuntimeError):
    """Compiled updates no longer agree with the module's own step; the message names the updates in doubt."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns whatever a module raises while it is described, tried or compiled into a CannotFuseError in one line."""
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
