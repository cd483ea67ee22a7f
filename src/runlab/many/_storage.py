"""The database in which Optuna keeps the trials of a search."""

import logging
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy.exc import SQLAlchemyError

from runlab._errors import UserError

HEARTBEAT, PATIENCE = 60, 240  # seconds between signs of life, and without one until a trial is given up
RETRIES = 3  # of a trial that was given up


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silences what Optuna has to say about what is done on purpose here."""
    optuna.logging.set_verbosity(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="The reported value is ignored")  # of a run that was resumed
        yield


def open_storage(where: str | None, folder: Path) -> BaseStorage:
    """Opens the database at the URL `where`, by default `optuna.db` in the folder.

    Raises:
        UserError: it cannot be opened.
    """
    url = where or f"sqlite:///{folder / 'optuna.db'}"
    try:
        with FileLock(folder / "search.lock"):  # since two that make the tables at one moment would disturb each other
            try:
                return _database(url)
            except SQLAlchemyError:  # as another machine may have done
                time.sleep(1)
                return _database(url)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"cannot be opened ({reason}); give another", storage=without_password(url)) from error


def _database(url: str) -> RDBStorage:
    patience = {"connect_args": {"timeout": 60}} if url.startswith("sqlite:") else {}
    return RDBStorage(
        url,
        engine_kwargs=patience,
        heartbeat_interval=HEARTBEAT,
        grace_period=PATIENCE,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(RETRIES, inherit_intermediate_values=True),
    )


def without_password(text: str) -> str:
    """The text as it may be shown: a password in an URL is left out."""
    text = re.sub(r"(:/+[^:/@\s]*):[^@\s]+@", r"\1:***@", text)
    return re.sub(r"(password=)[^&\s]+", r"\1***", text)
