"""Only one process at a time is in a folder, and others learn which."""

import errno
import json
import multiprocessing
import os
import platform
import time

import filelock
import pytest

from runlab._errors import UserError
from runlab._lock import HOLDER, Occupied, alone_in


def _stay(folder, is_in):
    with alone_in(folder):
        is_in.set()
        time.sleep(600)


@pytest.fixture
def other(tmp_path):
    """Another process that is in the folder."""
    context = multiprocessing.get_context("spawn")
    is_in = context.Event()
    process = context.Process(target=_stay, args=(tmp_path, is_in), daemon=True)
    process.start()
    assert is_in.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_folder_is_refused_with_the_process_that_is_in_it_until_that_dies(other, tmp_path):
    with pytest.raises(
        Occupied, match=f"process {other.pid} on {platform.node()} is training in .*; wait for it or stop it"
    ):
        alone_in(tmp_path).__enter__()
    other.kill()
    other.join()
    with alone_in(tmp_path):  # its record is out of date, and overwritten
        assert json.loads((tmp_path / HOLDER).read_text())["process"] == os.getpid()
    assert not (tmp_path / HOLDER).exists()


def test_a_folder_is_locked_within_a_process_too(tmp_path):
    with alone_in(tmp_path), pytest.raises(Occupied):
        alone_in(tmp_path).__enter__()
    with alone_in(tmp_path):
        pass


def test_the_record_of_another_machine_is_told(tmp_path, caplog):
    """Its file system may not lock across machines."""
    caplog.set_level("INFO", logger="runlab")
    for holder, told in (
        ({"host": "node\x1b7", "process": 4711}, True),
        ({"host": platform.node(), "process": 1}, False),
    ):
        (tmp_path / HOLDER).write_text(json.dumps(holder))
        caplog.clear()
        with alone_in(tmp_path):
            assert (rf"process 4711 on node\x1b7 may still be training in {tmp_path}" in caplog.text) == told


@pytest.mark.parametrize("content", ["", "[]", "{", '{"host": 1}', '{"host": "a", "process": "x"}', "\udcff"])
def test_a_record_that_says_nothing_is_no_obstacle(content, tmp_path):
    (tmp_path / HOLDER).write_bytes(content.encode(errors="surrogateescape"))
    with alone_in(tmp_path):
        pass


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EOPNOTSUPP, "Operation not supported"),
        OSError(errno.ENOLCK, "No locks available"),
        NotImplementedError(),
    ],
)
def test_a_file_system_without_locks_is_one_line(error, tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with pytest.raises(
        UserError, match=r"cannot be locked .*; give a writable runs_dir on a file system that supports locks"
    ) as refusal:
        alone_in(tmp_path).__enter__()
    assert not isinstance(refusal.value, Occupied)
