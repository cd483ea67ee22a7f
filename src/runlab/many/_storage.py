"""Opens the database in which Optuna keeps the trials of a search."""

import logging
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from runlab._errors import UserError

HEARTBEAT, PATIENCE = 60, 240  # seconds between heartbeats, and without one before a trial is given up
RETRIES = 3  # of a trial that was given up


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silences Optuna's messages about things done here on purpose."""
    optuna.logging.set_verbosity(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="The reported value is ignored")  # from a resumed run
        yield


def open_storage(where: str | None, folder: Path) -> BaseStorage:
    """Opens the database at the URL `where`, by default `optuna.db` in the folder.

    Raises:
        UserError: it cannot be opened.
    """
    if (
        where is None and {*"?%{}"} & {*str(folder)} and not (folder / "optuna.db").exists()
    ):  # they mean something in a URL
        raise UserError(f"{folder} has one of the characters ?%{{}}; give another name or runs_dir", name=folder.name)
    url = where or f"sqlite:///{folder / 'optuna.db'}"
    try:
        lock = FileLock(folder / "search.lock")
        with lock:  # two processes that create the tables at once would conflict
            try:
                return _Database(url, lock)
            except SQLAlchemyError:  # another machine may be creating them
                time.sleep(1)
                return _Database(url, lock)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"cannot be opened ({reason}); give another URL", storage=without_password(url)) from error


@contextmanager
def one_line(storage: str | None, folder: Path) -> Iterator[None]:
    """Turns an error of the database that trials are written to, such as a full disk, into a UserError."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        where = without_password(storage) if storage else folder / "optuna.db"
        reason = " ".join(str(cause).split())[:200]
        raise UserError(f"{where} cannot be written ({reason}); repeat the command when it can") from error


class _Database(RDBStorage):
    """Optuna's database, in which two threads or processes cannot begin the same waiting trial.

    SQLite does not lock a row that Optuna reads to change it, as other databases do.
    """

    def __init__(self, url: str, lock: FileLock) -> None:
        self._begins = lock
        super().__init__(
            url,
            engine_kwargs={"connect_args": {"timeout": 60}} if url.startswith("sqlite:") else {},
            heartbeat_interval=HEARTBEAT,
            grace_period=PATIENCE,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(RETRIES, inherit_intermediate_values=True),
        )

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        with self._begins:
            return bool(super().set_trial_state_values(trial_id, state, values))


def without_password(text: str) -> str:
    """Returns the text with passwords in URLs masked."""
    text = re.sub(r"(:/+[^:/@\s]*):[^@\s]+@", r"\1:***@", text)
    return re.sub(r"(password=)[^&\s]+", r"\1***", text)
