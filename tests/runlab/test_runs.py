"""The table of runs: which was best, and what was different."""

import csv
import io
import json

import numpy as np
import pytest
import yaml

from runlab import list_runs


@pytest.fixture
def runs(tmp_path):
    """Four runs, one of them not finished, one of another class, and folders that are none."""

    def add(name, model, val, seconds=2.5, **options):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        arguments = {"n_hidden": 100, "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}}
        configuration = {
            "name": name,
            "engine": "auto",
            "model": {"class_path": f"package.{model}", "init_args": arguments | options},
            "trainer": {"max_steps": 2000, "logger": None},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(configuration))
        if val is None:
            np.save(folder / "losses.npy", np.zeros(70, np.float32))
            return
        losses = {split: {"loss": val + more} for split, more in (("train", -0.1), ("val", 0.0), ("test", 0.1))}
        record = losses | {"updates": 2000, "engine": "fused", "seconds": seconds}
        (folder / "metrics.json").write_text(json.dumps(record))

    add("default/version_0", "MLP", 2.3)
    add("default/version_1", "MLP", 2.2, n_hidden=300)
    add("default/version_2", "MLP", None, n_hidden=200)
    add("wave/version_0", "WaveNet", 2.25, seconds=9.0, width=4)
    (tmp_path / "runs" / "version_7").mkdir()
    (tmp_path / "runs" / "version_7" / "config.yaml").write_text("{")
    (tmp_path / "runs" / "config.yaml").write_text("model: null")
    return str(tmp_path / "runs")


def listed(capsys, *args):
    list_runs([*args, "--csv"])
    return [*csv.DictReader(io.StringIO(capsys.readouterr().out))]


def test_the_best_comes_first_and_what_differs_is_shown(runs, capsys):
    rows = listed(capsys, runs)
    assert [row["run"] for row in rows] == [
        *("default/version_1", "wave/version_0", "default/version_0"),
        "default/version_2",  # without a result
    ]
    assert [row["model.n_hidden"] for row in rows] == ["300", "100", "100", "200"]
    assert [row["model"] for row in rows] == [f"package.{name}" for name in ("MLP", "WaveNet", "MLP", "MLP")]
    assert [row["updates"] for row in rows] == ["2000", "2000", "2000", "70"]
    assert rows[3]["val"] == rows[3]["engine"] == ""
    # Not what is the same, nor what only another class has.
    assert {*rows[0]} == {"run", "val", "test", "train", "updates", "seconds", "engine", "model", "model.n_hidden"}


def test_the_table_has_in_words_what_most_runs_do_not_share(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    list_runs([runs])
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if "/" in line}
    assert lines["default/version_1"] == [
        *["default/version_1", "2.2000", "2.3000", "2,000", "2.5", "fused", "n_hidden=300"]
    ]
    assert lines["wave/version_0"][-1] == "model=WaveNet"
    assert lines["default/version_0"][-1] == "fused"
    assert lines["default/version_2"] == ["default/version_2", "70", "n_hidden=200"]


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["--where", "n_hidden=100"], ["wave/version_0", "default/version_0"]),
        (["--where", "model.n_hidden>100", "--where", "val<9"], ["default/version_1"]),
        (
            ["--where", "engine=fused", "--sort", "seconds"],
            ["default/version_0", "default/version_1", "wave/version_0"],
        ),
        (["--where", "engine=fused", "--sort", "n_hidden", "--reverse"], ["default/version_1"]),
        (["--sort", "val", "--reverse"], ["default/version_0"]),
    ],
)
def test_runs_are_sorted_and_chosen_by_a_column(args, found, runs, capsys):
    assert [row["run"] for row in listed(capsys, runs, *args)][: len(found)] == found


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--where", "n_hiden=3"], "--where n_hiden: no run has such an option or result"),
        (["--where", "n_hidden"], "--where n_hidden: give COLUMN=VALUE"),
        (["--where", "val<low"], "--where val<low: give a number to compare with"),
        (["--where", "val<1"], "--where val<1: no run matches"),
        (["--sort", "speed"], "--sort speed: no run has such an option or result"),
    ],
)
def test_a_mistake_is_one_line(args, told, runs, fails):
    assert told in fails(list_runs, [runs, *args])


def test_a_folder_without_runs_is_one_line(tmp_path, fails):
    assert f"{tmp_path} contains no runs" in fails(list_runs, [str(tmp_path)])


def test_a_condition_is_met_by_what_is_there_and_written_so(runs, capsys, fails):
    assert [row["run"] for row in listed(capsys, runs, "--where", "model=WaveNet")] == ["wave/version_0"]
    assert len(listed(capsys, runs, "--where", "trainer.logger=null")) == 4
    assert len(listed(capsys, runs, "--where", "n_hidden=100.0")) == 2
    assert "no run matches" in fails(list_runs, [runs, "--where", "trainer.logger=Csv"])
    assert "no run matches" in fails(list_runs, [runs, "--where", "width=null"])


def test_results_of_before_a_run_was_resumed_are_not_its_results(runs, capsys):
    np.save(f"{runs}/default/version_1/losses.npy", np.zeros(2500, np.float32))  # interrupted
    (row,) = listed(capsys, runs, "--where", "n_hidden=300")
    assert (row["val"], row["updates"]) == ("", "2500")


def test_a_run_whose_loss_is_not_a_number_comes_last(tmp_path, capsys):
    for number, val in enumerate([2.5, float("nan"), 2.1, float("nan"), 2.3]):
        folder = tmp_path / f"version_{number}"
        folder.mkdir()
        (folder / "config.yaml").write_text("name: a\nwhen: 2024-13-45\n" if number == 4 else "name: a\n")
        record = {split: {"loss": val} for split in ("train", "val", "test")}
        (folder / "metrics.json").write_text(json.dumps(record | {"updates": 9, "engine": "eager", "seconds": 1.0}))
    assert [row["run"] for row in listed(capsys, str(tmp_path))] == ["version_2", "version_0", "version_1", "version_3"]


def test_an_option_whose_name_ends_anothers_has_its_whole_name(tmp_path, capsys):
    for number in (0, 1):
        folder = tmp_path / f"version_{number}"
        folder.mkdir()
        (folder / "config.yaml").write_text(f"optimizer: {{lr: {number}}}\nmodel: {{optimizer: {{lr: {number}}}}}\n")
    list_runs([str(tmp_path)])
    assert "optimizer.lr=" in capsys.readouterr().out
