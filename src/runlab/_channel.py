"""What a run and the process that watches it tell each other."""

from dataclasses import dataclass
from multiprocessing.connection import Connection

_watcher: Connection | None = None  # of this process, to the one that watches it


@dataclass(frozen=True)
class Begins:
    """The run is ready for its first update; its folder is there."""

    parameters: int  # of the model


@dataclass(frozen=True)
class Validated:
    """The metrics of a validation, by name."""

    update: int
    metrics: dict[str, float]
    is_last: bool  # whether the training ends here anyhow


@dataclass(frozen=True)
class HasDiverged:
    """The training loss is not finite any more; the run ends by itself."""


def watched_by(connection: Connection | None) -> None:
    """Notes which process watches the run of this one."""
    global _watcher
    _watcher = connection


def watcher() -> Connection | None:
    """Returns the connection to the process that watches this run; None where nobody does."""
    return _watcher
