"""A file for --config is read as what it says, or refused in one line, however it was made."""

import pytest

from ngram_mlp.cli import train
from ngram_mlp.places import DEFAULT_CONFIG

FILES = {
    "a key twice": ("model:\n  init_args: {n_hidden: 8, n_hidden: 9}\n", "'n_hidden' is there twice in one group"),
    "Latin-1": (b"name: \xe9t\xe9\n", "byte 6 is not UTF-8"),
    "bytes": (bytes(range(256)), "byte 128 is not UTF-8"),
    "a list": ("- a\n", "holds no options"),
    "a word": ("hello", "holds no options"),
    "nothing": ("# nothing\n", "holds no options"),
    "a number as a key": ("1: 2\n", "holds no options"),
    "a tab": ("a:\n\tb: 1\n", "is not YAML"),
    "no trainer": ("trainer: null\n", "--trainer: is a group of options"),
    "a number for a group": ("observe: 3\n", "--observe: is a group of options"),
    "no name": ("name: null\n", "--name: give a name"),
    "no block size": ("data: {block_size: null}\n", "--block_size: give a whole number of at least 1"),
}


@pytest.mark.parametrize(("content", "reason"), FILES.values(), ids=FILES)
def test_a_file_that_no_run_could_mean_is_one_line(content, reason, tmp_path, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "odd.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert reason in fails(train.main, DEFAULT_CONFIG, ["--config", str(path), "--data.corpus", "sample"])
    assert [*tmp_path.iterdir()] == [path]


def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    for path, reason in ((".", "Is a directory"), ("absent.yaml", "No such file")):
        assert f"cannot be read ({reason}" in fails(train.main, DEFAULT_CONFIG, ["--config", path])


def test_aliases_merges_and_byte_order_marks_are_read(run_train, tmp_path):
    (tmp_path / "fine.yaml").write_text(
        "\ufeffmodel: &m {init_args: &i {n_hidden: 9}}\nname: fine\ntrainer: {<<: {max_steps: 3}, max_epochs: null}\n"
    )
    folder, _ = run_train("--config", str(tmp_path / "fine.yaml"))
    assert folder.parent.name == "fine"
    assert "n_hidden: 9" in (folder / "config.yaml").read_text()
