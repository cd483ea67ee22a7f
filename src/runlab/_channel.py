"""Defines the messages that a run sends to the process that watches it."""

from dataclasses import dataclass
from multiprocessing.connection import Connection

_watcher: Connection | None = None  # to the process that watches this one


@dataclass(frozen=True)
class Begins:
    """The run is ready for its first update, and its folder exists."""

    parameters: int  # the model's number of parameters


@dataclass(frozen=True)
class Validated:
    """The metrics of a validation, by name."""

    update: int
    metrics: dict[str, float]
    is_last: bool  # whether training ends here anyway


@dataclass(frozen=True)
class HasDiverged:
    """The training loss is no longer finite; the run ends by itself."""


def watched_by(connection: Connection | None) -> None:
    """Sets the connection to the process that watches this run."""
    global _watcher
    _watcher = connection


def watcher() -> Connection | None:
    """Returns the connection to the process that watches this run; None if there is none."""
    return _watcher
