"""A file for --config is read as what it says, or refused in one line, however it was made."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ngram_mlp.cli import train
from ngram_mlp.cli.train_cli import TrainCLI
from ngram_mlp.places import DEFAULT_CONFIG
from runlab import read_configuration
from tests.conftest import PROJECT

FILES = {
    "a key twice": ("model:\n  init_args: {n_hidden: 8, n_hidden: 9}\n", "'n_hidden' appears twice in one group"),
    "Latin-1": (b"name: \xe9t\xe9\n", "byte 6 is not UTF-8"),
    "bytes": (bytes(range(256)), "byte 128 is not UTF-8"),
    "a list": ("- a\n", "contains no options"),
    "a word": ("hello", "contains no options"),
    "nothing": ("# nothing\n", "contains no options"),
    "a number as a key": ("1: 2\n", "contains no options"),
    "a tab": ("a:\n\tb: 1\n", "is not valid YAML"),
    "no trainer": ("trainer: null\n", "--trainer is a group of options"),
    "a number for a group": ("observe: 3\n", "--observe is a group of options"),
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


MISTAKES = {
    "a misspelt option of a model": (
        "model: {class_path: MLP, init_args: {n_hiden: 3}}",
        "model.n_hiden 3: Option 'n_hiden' is not accepted; did you mean --model.n_hidden?",
    ),
    "without its class": (
        "model: {n_hiden: 3}",
        "model.n_hiden 3: Option 'n_hiden' is not accepted; did you mean --model.n_hidden?",
    ),
    "a misspelt option of the trainer": (
        "trainer: {max_stepz: 3}",
        "trainer.max_stepz 3: Group 'trainer' does not accept option 'max_stepz'; did you mean --trainer.max_steps?",
    ),
    "a misspelt option": ("naem: a", "naem a: Option 'naem' is not accepted; did you mean --name?"),
    "a misspelt class": (
        "model: BatchNormMPL",
        "model BatchNormMPL: give a subclass of LanguageModel or null; did you mean BatchNormMLP?",
    ),
    "a word for a number": (
        "model: {class_path: MLP, init_args: {n_hidden: many}}",
        "model.n_hidden many: give a whole number",
    ),
    "an option of 0.2": (
        "model: {class_path: MLP, init_args: {engine: fused}}",
        "model.engine fused: Option 'engine' is not accepted; did you mean --engine?",
    ),
}


@pytest.mark.parametrize(("content", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_a_file_names_the_file_and_what_may_be_meant(content, line, tmp_path, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    path, default = tmp_path / "odd.yaml", tmp_path / "default.yaml"
    path.write_text(content)
    expected = f"error: {path}: {line}"
    # A typed value that is fine is not the mistake, although it is of the same option.
    for typed in ([], ["--trainer.max_steps", "9"], ["--model.n_hidden", "9"]):
        assert fails(train.main, DEFAULT_CONFIG, ["--config", str(path), *typed]) == expected
    shutil.copy(DEFAULT_CONFIG, default)
    assert fails(train.main, default, ["--config", str(path)]) == expected
    # Nor is the file that everything begins with right where it is edited.
    default.write_text(content)
    found = fails(train.main, default, [])
    assert found.startswith(f"error: {default}: {line.partition('; did you mean')[0]}")


@pytest.mark.parametrize(
    "typed", [("--data.batch_size", "32k"), ("--trainer.max_steps", "3x"), ("--trainer.max_steps=3x",)]
)
def test_a_mistake_that_was_typed_is_not_the_files(typed, tmp_path, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fine.yaml").write_text("trainer: {max_steps: 3}\ndata: {batch_size: 32}\n")
    line = f"error: {' '.join(typed).replace('=', ' ')}: give a whole number"
    assert fails(train.main, DEFAULT_CONFIG, [*typed]) == line
    assert fails(train.main, DEFAULT_CONFIG, ["--config", "fine.yaml", *typed]) == line
    monkeypatch.setenv("PL_TRAINER__MAX_STEPS", "3x")
    assert "fine.yaml" not in fails(train.main, DEFAULT_CONFIG, ["--config", "fine.yaml"])


def test_a_file_that_is_no_yaml_is_one_line_where_it_is_the_default_one(tmp_path, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default.yaml").write_text("model: [MLP\n")
    line = fails(train.main, tmp_path / "default.yaml", [])
    assert f"{tmp_path / 'default.yaml'}: is not valid YAML" in line


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


def test_merges_of_merges_are_no_duplicates(tmp_path):
    (tmp_path / "merged.yaml").write_text(
        "x:\n  inner:\n    a: &a {lr: 1}\n    b: &b {<<: *a, lr: 2}\nmodel:\n  <<: *b\n"
    )
    assert read_configuration(str(tmp_path / "merged.yaml"))["model"] == {"lr": 2}


GROUPS = sorted(str(path) for group in ("logger", "trainer") for path in (PROJECT / "configs" / group).iterdir())


@pytest.mark.parametrize("group", GROUPS, ids=lambda path: "/".join(Path(path).parts[-2:]))
def test_a_group_changes_the_trainer_of_an_experiment_alone(group, monkeypatch):
    monkeypatch.setattr(TrainCLI, "instantiate_classes", lambda _: None)  # which needs the logger's package
    experiment = str(PROJECT / "configs" / "experiments" / "004_kaiming.yaml")
    without, with_group = (
        TrainCLI(["--config", experiment, *more, "--data.corpus", "sample"], DEFAULT_CONFIG).config.as_dict()
        for more in ([], ["--config", group])
    )
    assert with_group.pop("trainer") != without.pop("trainer")
    assert with_group.pop("config") != without.pop("config")
    assert with_group == without


def test_a_group_of_loggers_logs_to_all_of_them(run_train, tmp_path):
    run_train("--config", str(PROJECT / "configs" / "logger" / "many.yaml"), "--trainer.max_steps", "3")
    assert (tmp_path / "runs" / "many-csv" / "version_0" / "metrics.csv").is_file()
    assert [*(tmp_path / "runs" / "many" / "version_0").glob("events.*")]


def test_the_environment_sets_options_that_the_command_line_overrides(run_train, monkeypatch, fails):
    """As LightningCLI names them, and as Lightning's trainer does."""
    monkeypatch.setenv("PL_TRAINER_MAX_STEPS", "4")
    monkeypatch.setenv("PL_MODEL__OPTIMIZER__LR", "0.05")
    folder, _ = run_train()
    assert folder.parent.name == "lr=0.05"
    assert len(np.load(folder / "losses.npy")) == 4
    monkeypatch.setenv("PL_TRAINER__MAX_STEPS", "5")
    folder, _ = run_train("--model.optimizer.lr", "0.1")
    assert len(np.load(folder / "losses.npy")) == 5
    assert folder.parent.name == "lr=0.1"
    monkeypatch.setenv("PL_TRAINER__MAX_STEPS", "many")
    assert "--trainer.max_steps many: give a whole number" in fails(run_train)
