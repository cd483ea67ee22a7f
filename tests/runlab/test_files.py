import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from runlab._files import claim_run_folder, remove_leftovers, write_atomically


def test_a_reader_sees_the_old_content_or_the_new_and_never_half(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([i]) * 200_000 for i in range(40)]
    write_atomically(path, contents[0])
    done = threading.Event()

    def write():
        for content in contents:
            write_atomically(path, content)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        content = path.read_bytes()
        assert content in contents
        seen.add(content[0])
    writer.join()
    assert path.read_bytes() == contents[-1]
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_content_and_nothing_beside_it(step, tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left") as error:
        write_atomically(path, b"new")
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_content_and_folder_are_on_the_disk_before_the_file_counts_as_written(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: steps.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file") or fsync(fd)
    )
    monkeypatch.setattr(os, "replace", lambda *paths: steps.append("rename") or replace(*paths))
    write_atomically(tmp_path / "file", b"new")
    assert steps == ["file", "rename", "folder"]


def test_leftovers_of_a_killed_writer_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in (".config.yaml.x1.part", "checkpoints/.last.ckpt.y2.part", "checkpoints/last.ckpt", ".keep", "a.part"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [".keep", "a.part", "last.ckpt"]


def test_runs_that_begin_at_once_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: claim_run_folder(str(tmp_path), "name").name, range(40)))
    assert sorted(folders) == sorted(f"version_{number}" for number in range(40))
