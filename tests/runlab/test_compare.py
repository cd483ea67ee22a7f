"""Studies: real processes, a few updates each."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from ngram_mlp.cli import compare
from ngram_mlp.data import load_corpus
from runlab import alone_in
from runlab.many._plan import plan, record_recipes
from runlab.many._report import paired_interval
from tests.conftest import PROJECT

TRAIN = PROJECT / "scripts" / "train.py"
EXPERIMENTS = PROJECT / "configs" / "experiments"


@pytest.fixture
def study(tmp_path, monkeypatch, corpus_file):
    """Runs `compare.py` on two recipes in an empty folder; returns the study's folder."""
    monkeypatch.chdir(tmp_path)
    recipes = []
    for name in ("002_no_norm", "002_batch_norm"):
        recipes.append(tmp_path / f"{name}.yaml")
        shutil.copyfile(EXPERIMENTS / recipes[-1].name, recipes[-1])

    def run(*args: str):
        shared = ("--data.corpus", str(corpus_file), "--trainer.max_steps", "20", "--observe.every_n_updates", "off")
        compare.main([*map(str, recipes), "--jobs", "2", "--name", "study", *shared, *args])
        return tmp_path / "runs" / "compare" / "study"

    return run


def test_a_study_trains_every_recipe_with_every_seed_and_goes_on_where_it_stopped(study, corpus_file, tmp_path, capsys):
    folder = tmp_path / "runs" / "compare" / "study"
    for recipe, val in (("002_no_norm", 3.0), ("002_batch_norm", 2.75)):
        fabricate(folder, recipe, 1, val, load_corpus(str(corpus_file)).sha256)
    first = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.json")}
    assert len(first) == 2
    assert study("--seeds", "2") == folder
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())  # what was done stays
    rows = json.loads((folder / "results.json").read_text())
    assert {(row["recipe"], row["seed"]) for row in rows} == {
        (recipe, seed) for recipe in ("002_no_norm", "002_batch_norm") for seed in (1, 2)
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
    differences = [by["002_batch_norm", seed] - by["002_no_norm", seed] for seed in (1, 2)]
    mean, half = paired_interval(differences)
    assert f"{mean:+.4f} ± {half:.4f}" in (folder / "report.md").read_text()
    for name in ("curves.png", "final.png"):
        assert (folder / name).stat().st_size > 1_000
    assert "002_batch_norm" in capsys.readouterr().out


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
    for recipe, val in (("002_no_norm_batch_size=1", 2.5), ("002_no_norm_batch_size=8", 2.25)):
        fabricate(folder, recipe, 1, val)
    fabricate(folder, "002_batch_norm_batch_size=8", 1, 2.0)
    with pytest.raises(SystemExit, match="1"):
        study("--seeds", "1", "--grid", "data.batch_size=1,8")
    rows = json.loads((folder / "results.json").read_text())
    failed = {row["recipe"]: row["error"] for row in rows if row["val"] is None}
    assert list(failed) == ["002_batch_norm batch_size=1"]
    assert "batch norm has no standard deviation" in failed["002_batch_norm batch_size=1"]
    assert len(rows) == 4
    report = (folder / "report.md").read_text()
    assert "002_batch_norm batch_size=1, seed 1: error" in report
    assert " -0.2500 " in report  # against the first recipe at the same point of the grid


KILLER = """
import os
import signal

from pytorch_lightning import Callback


class Killer(Callback):
    def on_train_start(self, trainer, pl_module):
        if trainer.global_step == 0 and "seed_1" in trainer.log_dir and not os.path.exists("spared"):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_is_killed_kills_nothing_else_and_is_trained_by_the_next_call(study, tmp_path, monkeypatch):
    (tmp_path / "killer_of_runs.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path)
    args = ("--seeds", "2", "--trainer.callbacks+=killer_of_runs.Killer")
    with pytest.raises(SystemExit, match="1"):
        study(*args)
    folder = tmp_path / "runs" / "compare" / "study"
    finished = {path.parents[1].name for path in folder.rglob("metrics.json")}
    assert finished == {"seed_2"}
    (tmp_path / "spared").touch()
    study(*args)
    assert len([*folder.rglob("metrics.json")]) == 4


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--seeds", "0"], "--seeds 0"),
        (["--grid", "n_hidden"], "--grid n_hidden"),
        (["--grid", "model.n_hidden=9,9"], "002_no_norm n_hidden=9: given twice"),
        (["--trainer.deterministic", "true", "c.yaml"], "c.yaml: give all configurations before the options"),
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


def test_a_study_is_named_by_its_recipes_and_never_loses_any(study, fails, tmp_path, corpus_file):
    studies = tmp_path / "runs" / "compare"
    other = [str(tmp_path / "002_no_norm.yaml"), "--data.corpus", str(corpus_file), "--trainer.max_steps", "5"]
    compare.main([*other, "--seeds", "1", "--grid", "model.n_hidden=8"])
    assert [path.name for path in studies.iterdir()] == ["002_no_norm-by-n_hidden"]
    fabricate(studies / "study", "002_no_norm", 1, 2.0)
    fabricate(studies / "study", "another_recipe", 1, 2.0)
    line = fails(study, "--seeds", "1")
    assert "--name study: that study also has another_recipe seed_1, which would be missing from its report" in line
    shutil.rmtree(studies / "study" / "runs" / "another_recipe")
    fabricate(studies / "study", "002_no_norm", 2, 2.0)
    assert "that study also has 002_no_norm seed_2, which" in fails(study, "--seeds", "1")


def test_a_difference_within_its_interval_is_not_told_apart(study, tmp_path):
    for seed, better in ((1, 0.1), (2, 0.3)):
        for recipe, val in (("002_no_norm", 2.5), ("002_batch_norm", 2.5 - better)):
            fabricate(tmp_path / "runs" / "compare" / "study", recipe, seed, val)
    report = (study("--seeds", "2") / "report.md").read_text()
    assert "| -0.2000 ± 1.2706, not told apart |" in report


def test_a_recipe_that_is_not_there_is_told(fails):
    assert "nowhere.yaml: no such file" in fails(compare.main, ["nowhere.yaml"])


def test_a_study_is_not_continued_with_another_recipe_but_after_a_mistake(study, fails, tmp_path, corpus_file):
    with pytest.raises(SystemExit, match="1"):
        study("--seeds", "1", "--model.n_hiden", "10")
    recipes = [str(tmp_path / f"{name}.yaml") for name in ("002_no_norm", "002_batch_norm")]
    folder = tmp_path / "runs" / "compare" / "study"
    shared = ["--data.corpus", str(corpus_file), "--trainer.max_steps", "20", "--observe.every_n_updates", "off"]
    record_recipes(folder, plan(folder, recipes, [], range(1, 2), shared))  # nothing was trained with the mistake
    fabricate(folder, "002_batch_norm", 1, 2.0)
    line = fails(study, "--seeds", "1", "--trainer.max_steps", "30")
    assert "--name study: 002_batch_norm was trained there with different options" in line


def test_a_run_that_another_call_trains_is_left_out(study, tmp_path, capsys):
    folder = tmp_path / "runs" / "compare" / "study" / "runs"
    with ExitStack() as others:
        for recipe in ("002_no_norm", "002_batch_norm"):
            (folder / recipe / "seed_1").mkdir(parents=True)
            others.enter_context(alone_in(folder / recipe / "seed_1"))
        study("--seeds", "1")
    assert capsys.readouterr().out.count("another process is training it") == 2
    assert not list(folder.rglob("version_*"))


def test_runs_on_several_corpora_are_not_averaged(study, fails, tmp_path):
    for seed in (1, 2):
        for recipe in ("002_no_norm", "002_batch_norm"):
            fabricate(tmp_path / "runs" / "compare" / "study", recipe, seed, 2.0, corpus=str(seed) * 64)
    line = fails(study, "--seeds", "2")
    assert "002_no_norm was trained on different corpora with seeds 1 and 2" in line


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_runs_and_the_next_call_goes_on_with_them(number, status, tmp_path, corpus_file):
    recipe = str(EXPERIMENTS / "002_no_norm.yaml")
    shared = ("--seeds", "2", "--jobs", "2", "--data.corpus", str(corpus_file), "--trainer.max_steps", "6000")
    command = [sys.executable, str(TRAIN.with_name("compare.py")), recipe, *shared, "--checkpoint_every", "100"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "runs" / "compare" / "study"
    while process.poll() is None and len(list(folder.rglob("last.ckpt"))) < 2:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=60) == status
    for log in folder.rglob("seed_*.log"):
        assert "resume with: " in log.read_text()  # each run has saved its state
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert [len(np.load(path)) for path in folder.rglob("losses.npy")] == [6_000, 6_000]


def test_a_grid_has_lists_and_mappings_as_values():
    config = EXPERIMENTS / "002_no_norm.yaml"
    runs = plan(Path("study"), [str(config)], ["a.b=[1,2],{c: 3, d: [4]}, e"], range(1, 2), [])
    assert [run.point for run in runs] == ["b=[1,2]", "b={c: 3, d: [4]}", "b=e"]
    assert len({run.folder for run in runs}) == 3


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.7062), (3, 4.3027), (5, 2.7764), (10, 2.2622), (31, 2.0423)])
def test_intervals_are_those_of_students_t(count, quantile):
    values = list(np.random.default_rng(0).normal(size=count))
    mean, half = paired_interval(values)
    assert mean == pytest.approx(np.mean(values))
    assert half == pytest.approx(quantile * np.std(values, ddof=1) / count**0.5, rel=1e-3)
