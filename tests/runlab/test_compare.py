"""Studies: real processes of a script that trains nothing."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from runlab import alone_in, command, compare
from runlab.many._plan import copy_of, plan, record_recipes
from runlab.many._report import paired_interval
from tests.runlab.fake import FAKE


@pytest.fixture
def run_compare(tmp_path, monkeypatch):
    """Compares recipes in an empty folder with two."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.yaml").write_text("model: {norm: false}\n")
    (tmp_path / "norm.yaml").write_text("model: {norm: true}\n")

    def run(*args: str):
        command(compare)(FAKE, args)

    script = "import runlab; from tests.runlab.fake import FAKE; runlab.command(runlab.compare)(FAKE)"
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    run.command = [sys.executable, "-c", script]
    return run


@pytest.fixture
def study(run_compare, tmp_path):
    """Compares both recipes; returns the study's folder."""

    def run(*args: str):
        run_compare("plain.yaml", "norm.yaml", "--jobs", "2", "--name", "study", *args)
        return tmp_path / "runs" / "compare" / "study"

    return run


def test_a_study_trains_every_recipe_with_every_seed_and_goes_on_where_it_stopped(study, tmp_path, capsys):
    folder = tmp_path / "runs" / "compare" / "study"
    for recipe, val in (("plain", 3.0), ("norm", 2.75)):
        fabricate(folder, recipe, 1, val, "")
    first = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.json")}
    assert len(first) == 2
    assert study("--seeds", "2") == folder
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())  # what was done stays
    rows = json.loads((folder / "results.json").read_text())
    assert {(row["recipe"], row["seed"]) for row in rows} == {
        (recipe, seed) for recipe in ("plain", "norm") for seed in (1, 2)
    }
    for row in rows:
        metrics = json.loads(
            (folder / "runs" / row["recipe"] / f"seed_{row['seed']}/version_0/metrics.json").read_text()
        )
        losses = np.load(folder / "runs" / row["recipe"] / f"seed_{row['seed']}/version_0/losses.npy")
        assert row["val"] == metrics["val"]["loss"]
        assert row["first_loss"] == pytest.approx(float(losses[0]))
        assert row["error"] is None
    with (folder / "results.csv").open() as file:
        assert [float(row["val"]) for row in csv.DictReader(file)] == [row["val"] for row in rows]
    by = {(row["recipe"], row["seed"]): row["val"] for row in rows}
    differences = [by["norm", seed] - by["plain", seed] for seed in (1, 2)]
    mean, half = paired_interval(differences)
    assert f"{mean:+.4f} ± {half:.4f}" in (folder / "report.md").read_text()
    for name in ("curves.png", "final.png"):
        assert (folder / name).stat().st_size > 1_000
    assert "norm" in capsys.readouterr().out


def fabricate(folder, recipe, seed, val, corpus="0" * 64):
    """Leaves what a finished run leaves."""
    run = folder / "runs" / recipe / f"seed_{seed}" / "version_0"
    run.mkdir(parents=True, exist_ok=True)
    metrics = {split: {"loss": val} for split in ("train", "val", "test")}
    metrics |= {"updates": 20, "updates_per_second": 1.0, "corpus": {"sha256": corpus}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    np.save(run / "losses.npy", np.ones(20, np.float32))


def test_a_run_that_fails_is_reported_and_the_others_are_not_lost(study, tmp_path):
    folder = tmp_path / "runs" / "compare" / "study"
    for recipe, val in (("plain_batch_size=1", 2.5), ("plain_batch_size=8", 2.25)):
        fabricate(folder, recipe, 1, val)
    fabricate(folder, "norm_batch_size=8", 1, 2.0)
    with pytest.raises(SystemExit, match="1"):
        study("--seeds", "1", "--grid", "batch_size=1,8")
    rows = json.loads((folder / "results.json").read_text())
    failed = {row["recipe"]: row["error"] for row in rows if row["val"] is None}
    assert list(failed) == ["norm batch_size=1"]
    assert "a norm has no standard deviation" in failed["norm batch_size=1"]
    assert len(rows) == 4
    report = (folder / "report.md").read_text()
    assert "norm batch_size=1, seed 1: error" in report
    assert " -0.2500 " in report  # against the first recipe at the same point of the grid


def test_a_run_that_is_killed_kills_nothing_else_and_is_trained_by_the_next_call(study, tmp_path):
    with pytest.raises(SystemExit, match="1"):
        study("--seeds", "2", "--killed_at", "0", "--jobs", "1")
    folder = tmp_path / "runs" / "compare" / "study"
    assert len([*folder.rglob("metrics.json")]) == 3
    study("--seeds", "2", "--killed_at", "0")
    assert len([*folder.rglob("metrics.json")]) == 4


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--seeds", "0"], "--seeds 0"),
        (["--grid", "n_hidden"], "--grid n_hidden"),
        (["--grid", "model.n_hidden=9,9"], "plain n_hidden=9: given twice"),
        (["--max_steps", "20", "c.yaml"], "c.yaml: give all configurations before the options"),
        (["--runs_dir", "/dev/null/runs"], "--runs_dir: cannot write to /dev/null/runs"),
        (["--name", "../elsewhere"], "--name ../elsewhere: give the name"),
        (["--config", "other.yaml"], "--config: each recipe is one file"),
        (["--seed_everything", "3"], "--seed_everything: the seeds are 1, 2"),
        (["--grid", "seed_everything=1,2"], "--seed_everything: the seeds are 1, 2"),
        (["--ckpt_path", "last"], "--ckpt_path: runs start or resume automatically"),
        (["--print_config"], "--print_config: nothing would be trained"),
    ],
)
def test_mistakes(args, told, study, fails):
    assert told in fails(study, *args)


def test_a_study_is_named_by_its_recipes_and_never_loses_any(study, run_compare, fails, tmp_path):
    studies = tmp_path / "runs" / "compare"
    run_compare("plain.yaml", "--seeds", "1", "--grid", "model.n_hidden=8")
    assert [path.name for path in studies.iterdir()] == ["plain-by-n_hidden"]
    fabricate(studies / "study", "plain", 1, 2.0)
    fabricate(studies / "study", "another_recipe", 1, 2.0)
    line = fails(study, "--seeds", "1")
    assert "--name study: that study also has another_recipe seed_1, which would be missing from its report" in line
    shutil.rmtree(studies / "study" / "runs" / "another_recipe")
    fabricate(studies / "study", "plain", 2, 2.0)
    assert "that study also has plain seed_2, which" in fails(study, "--seeds", "1")


def test_a_difference_within_its_interval_is_not_told_apart(study, tmp_path):
    for seed, better in ((1, 0.1), (2, 0.3)):
        for recipe, val in (("plain", 2.5), ("norm", 2.5 - better)):
            fabricate(tmp_path / "runs" / "compare" / "study", recipe, seed, val)
    report = (study("--seeds", "2") / "report.md").read_text()
    assert "| -0.2000 ± 1.2706, not told apart |" in report


def test_a_recipe_that_is_not_there_is_told(run_compare, fails):
    assert "nowhere.yaml: no such file" in fails(run_compare, "nowhere.yaml")


def test_a_study_is_not_continued_with_another_recipe_but_after_a_mistake(study, fails, tmp_path):
    with pytest.raises(SystemExit, match="1"):
        study("--seeds", "1", "--model.n_hiden", "10")
    folder = tmp_path / "runs" / "compare" / "study"
    record_recipes(
        folder, plan(folder, ["plain.yaml", "norm.yaml"], [], range(1, 2), [])
    )  # nothing was trained with the mistake
    fabricate(folder, "norm", 1, 2.0)
    line = fails(study, "--seeds", "1", "--max_steps", "30")
    assert "--name study: norm was trained there with different options" in line


def test_a_run_that_another_call_trains_is_left_out(study, tmp_path, capsys):
    folder = tmp_path / "runs" / "compare" / "study" / "runs"
    with ExitStack() as others:
        for recipe in ("plain", "norm"):
            (folder / recipe / "seed_1").mkdir(parents=True)
            others.enter_context(alone_in(folder / recipe / "seed_1"))
        study("--seeds", "1")
    assert capsys.readouterr().out.count("another process is training it") == 2
    assert not list(folder.rglob("version_*"))


def test_runs_on_several_corpora_are_not_averaged(study, fails, tmp_path):
    for seed in (1, 2):
        for recipe in ("plain", "norm"):
            fabricate(tmp_path / "runs" / "compare" / "study", recipe, seed, 2.0, corpus=str(seed) * 64)
    line = fails(study, "--seeds", "2")
    assert "plain was trained on different corpora with seeds 1 and 2" in line


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_runs_and_the_next_call_goes_on_with_them(number, status, run_compare, tmp_path):
    options = ("--seeds", "2", "--jobs", "2", "--pause", "0.01", "--save_every", "10")
    command = [*run_compare.command, "plain.yaml", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "runs" / "compare" / "plain"
    while process.poll() is None and len(list(folder.rglob("last.ckpt"))) < 2:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=60) == status
    for log in folder.rglob("seed_*.log"):
        assert "resume with: " in log.read_text()  # each run has saved its state
    subprocess.run(command, check=True, capture_output=True)
    assert [len(np.load(path)) for path in folder.rglob("losses.npy")] == [60, 60]


@pytest.mark.usefixtures("run_compare")
def test_a_grid_has_lists_and_mappings_as_values():
    runs = plan(Path("study"), ["plain.yaml"], ["a.b=[1,2],{c: 3, d: [4]}, e"], range(1, 2), [])
    assert [run.point for run in runs] == ["b=[1,2]", "b={c: 3, d: [4]}", "b=e"]
    assert len({run.folder for run in runs}) == 3


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.7062), (3, 4.3027), (5, 2.7764), (10, 2.2622), (31, 2.0423)])
def test_intervals_are_those_of_students_t(count, quantile):
    values = list(np.random.default_rng(0).normal(size=count))
    mean, half = paired_interval(values)
    assert mean == pytest.approx(np.mean(values))
    assert half == pytest.approx(quantile * np.std(values, ddof=1) / count**0.5, rel=1e-3)


def test_a_study_of_no_updates_has_a_report(study):
    report = (study("--seeds", "1", "--max_steps", "0") / "report.md").read_text()
    assert "| plain | 1 | - |" in report
    assert "curves.png" not in report


def test_an_interval_of_fewer_pairs_than_seeds_says_so(study, tmp_path):
    folder = tmp_path / "runs" / "compare" / "study"
    for seed in (1, 2, 3):
        fabricate(folder, "norm", seed, 2.0 + seed / 100)
        if seed < 3:
            fabricate(folder, "plain", seed, 2.5)
    with ExitStack() as other:
        (folder / "runs" / "plain" / "seed_3").mkdir(parents=True)
        other.enter_context(alone_in(folder / "runs" / "plain" / "seed_3"))
        report = (study("--seeds", "3") / "report.md").read_text()
    assert ", of 2 seeds |" in report
    assert "- no result: plain, seed 3: not trained yet" in report


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (["a.b=-3e-05,2"], [["--a.b=-3e-05"], ["--a.b", "2"]]),
        (["a.b=[" + "1," * 200 + "1]"], [["--a.b", "[" + "1," * 200 + "1]"]]),
    ],
)
@pytest.mark.usefixtures("run_compare")
def test_values_that_look_like_options_or_are_long_are_values(grid, words):
    runs = plan(Path("study"), ["plain.yaml"], grid, range(1, 2), ["--model=d.yaml"])
    assert [[*run.overrides[1:]] for run in runs] == words
    assert all(len(run.folder.parent.name) < 250 for run in runs)


def test_an_option_is_varied_once(study, fails):
    assert "--grid model.n_hidden=7: the option is given twice" in fails(
        study, "--grid", "model.n_hidden=5,6", "--grid", "model.n_hidden=7"
    )


def sizes_in(folder):
    return {json.loads(path.read_text())["model"]["n_hidden"] for path in folder.rglob("config.yaml")}


def test_a_recipe_may_be_edited_while_its_study_runs(run_compare, tmp_path, fails):
    command = [*run_compare.command, "plain.yaml", "--seeds", "3", "--jobs", "1", "--pause", "0.01"]
    (tmp_path / "plain.yaml").write_text("model: {n_hidden: 4}\n")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and not [*tmp_path.rglob("version_0/config.yaml")]:
        time.sleep(0.02)
    (tmp_path / "plain.yaml").write_text("model: {n_hidden: 400}\n")
    assert process.wait(timeout=60) == 0
    assert len([*tmp_path.rglob("metrics.json")]) == 3
    assert sizes_in(tmp_path / "runs") == {4}
    assert "with a different file" in fails(run_compare, "plain.yaml", "--seeds", "4", "--pause", "0.01")


def test_what_the_environment_sets_belongs_to_a_study(run_compare, fails, monkeypatch, tmp_path):
    monkeypatch.setenv("PL_TRAINER__MAX_STEPS", "50")
    run_compare("plain.yaml", "--seeds", "1")
    assert "env PL_TRAINER__MAX_STEPS=50 " in (tmp_path / "runs/compare/plain/report.md").read_text()
    monkeypatch.setenv("PL_TRAINER__MAX_STEPS", "400")
    assert "with different options" in fails(run_compare, "plain.yaml", "--seeds", "2")


def test_two_recipes_never_share_a_folder(run_compare, fails, tmp_path):
    (tmp_path / "my recipe.yaml").write_text("model: {n_hidden: 4}\n")
    (tmp_path / "my_recipe.yaml").write_text("model: {n_hidden: 99}\n")
    run_compare("my recipe.yaml", "--seeds", "1")
    assert "my_recipe was trained there with a different file" in fails(run_compare, "my_recipe.yaml", "--seeds", "1")


def test_a_run_that_was_lengthened_by_hand_is_not_averaged_with_the_others(run_compare, fails, tmp_path):
    run_compare("plain.yaml", "--seeds", "2")
    path = tmp_path / "runs/compare/plain/runs/plain/seed_1/version_0/config.yaml"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_steps": 600}))
    line = fails(run_compare, "plain.yaml", "--seeds", "2")
    assert "plain has runs with different max_steps" in line
    assert "seed_1/version_0 and" in line


def test_a_study_goes_on_where_hanging_up_is_ignored(run_compare, tmp_path):
    """As `nohup` has it ignored."""
    command = [*run_compare.command, "plain.yaml", "--seeds", "1", "--pause", "0.01"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    while process.poll() is None and not [*tmp_path.rglob("version_0/config.yaml")]:
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0


def test_damaged_files_are_one_line_or_trained_again(run_compare, fails, tmp_path):
    run_compare("plain.yaml", "--seeds", "1")
    folder = tmp_path / "runs/compare/plain"
    (folder / "runs/plain/seed_1/version_0/metrics.json").write_text("")
    run_compare("plain.yaml", "--seeds", "1")
    assert len(json.loads((folder / "results.json").read_text())) == 1
    (folder / "study.json").write_text('{"a')
    assert "study.json is damaged; remove it" in fails(run_compare, "plain.yaml", "--seeds", "1")


def test_a_recipe_has_its_whole_name_in_the_table(run_compare, tmp_path, capsys):
    shutil.copy(tmp_path / "plain.yaml", tmp_path / "plain (1).yaml")
    run_compare("plain.yaml", "plain (1).yaml", "--seeds", "1")
    assert " plain (1) " in capsys.readouterr().out


def test_a_recipe_that_names_a_file_beside_it_finds_it(run_compare, tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "model.yaml").write_text("n_hidden: 5\n")
    (tmp_path / "recipes" / "whole.yaml").write_text(f"name: {'x' * 300}\nmodel: model.yaml\n")
    run_compare("recipes/whole.yaml", "--seeds", "1")
    assert sizes_in(tmp_path / "runs") == {5}


def test_a_recipe_that_names_a_file_in_a_list_is_not_copied(tmp_path):
    for content, copied in (("a: [{b: [c.txt]}]", False), ("a: [{b: [d.txt]}]", True), ("a: c.txt", False)):
        (tmp_path / "c.txt").touch()
        (tmp_path / "r.yaml").write_text(content)
        assert (copy_of(tmp_path / "study", tmp_path / "r.yaml") != tmp_path / "r.yaml") == copied


def test_a_study_of_before_the_environment_was_recorded_goes_on(run_compare, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_TRAINER__MAX_STEPS", "50")
    run_compare("plain.yaml", "--seeds", "1")
    path = tmp_path / "runs/compare/plain/study.json"
    recipes = json.loads(path.read_text())
    del recipes["plain"]["environment"]
    path.write_text(json.dumps(recipes))
    run_compare("plain.yaml", "--seeds", "2")
    assert len([*tmp_path.rglob("metrics.json")]) == 2


def test_recipes_of_odd_names_have_figures_and_a_report(run_compare, tmp_path):
    names = ["a$_$b", "_base", "n" * 240]
    for number, name in enumerate(names):
        (tmp_path / f"{name}.yaml").write_text(f"model: {{n_hidden: {number + 4}}}\n")
    run_compare(*(f"{name}.yaml" for name in names), "--seeds", "1", "--name", "odd")
    report = (tmp_path / "runs/compare/odd/report.md").read_text()
    assert all(f"| {name} | 1 |" in report for name in names)


def test_a_command_with_what_the_environment_sets_can_be_repeated(run_compare, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_DATA__CORPUS", "my words.txt")
    run_compare("plain.yaml", "--seeds", "1")
    command = (tmp_path / "runs/compare/plain/report.md").read_text().split("```")[1]
    assert shlex.split(command)[:2] == ["env", "PL_DATA__CORPUS=my words.txt"]
