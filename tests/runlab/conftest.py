"""The environment of these tests: a server of their own, which forks the script that trains nothing."""

from multiprocessing import forkserver

import pytest


@pytest.fixture(autouse=True, scope="module")
def own_server():
    """Ends the server of other tests in this process, and its own: a server imports for one script alone."""
    forkserver._forkserver._stop()
    yield
    forkserver._forkserver._stop()
