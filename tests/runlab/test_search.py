"""Searches: real processes of a script that trains nothing."""

import io
import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from optuna.trial import TrialState
from rich.console import Console

from runlab import Search, UserError, alone_in, command, search_command
from runlab.many import _search
from runlab.many import _storage as storage_module
from runlab.many._confirmation import confirm_best
from runlab.many._dry_run import dry_run
from runlab.many._search_report import _verdict
from runlab.many._space import from_words, read_space
from runlab.many._storage import open_storage, quiet_optuna, without_password
from runlab.many._trials import DOES_NOT_COUNT, FOLDER, Goal, Trials
from tests.runlab.fake import FAKE

AXES = ("model.optimizer.lr=0.001..10.0 log", "model.n_hidden=4..32 step 4", "model.activation=Tanh,ReLU")
SPACE = tuple(word for axis in AXES for word in ("--space", axis))


@pytest.fixture
def run_search(tmp_path, monkeypatch):
    """Searches from a recipe in an empty folder; returns the search's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.yaml").write_text("name: plain\nmodel: {norm: false}\n")

    def run(*args, space=SPACE, confirm="0"):
        command(search_command)(FAKE, ["plain.yaml", *space, "--confirm", confirm, *args])
        name = args[args.index("--name") + 1] if "--name" in args else "search"
        return tmp_path / "runs" / "search" / name

    script = "import runlab; from tests.runlab.fake import FAKE; runlab.command(runlab.search_command)(FAKE)"
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    run.command = [sys.executable, "-c", script, str(tmp_path / "plain.yaml"), *SPACE]
    return run


def trials_of(folder, storage=None):
    with quiet_optuna():
        return optuna.load_study(study_name=folder.name, storage=open_storage(storage, folder)).trials


def counted(trials):
    return [trial for trial in trials if DOES_NOT_COUNT not in trial.user_attrs]


def test_a_killed_search_is_resumed_and_ends_with_as_many_trials(run_search, tmp_path):
    shared = ("--trials", "6", "--jobs", "1", "--confirm", "0", "--pruner.n_startup_trials", "1", "--pause", "0.002")
    whole = trials_of(run_search(*shared, "--name", "whole"))
    assert [trial.number for trial in whole] == list(range(6))
    states = [trial.state for trial in whole]
    assert states.count(TrialState.PRUNED) > 0
    assert states.count(TrialState.PRUNED) + states.count(TrialState.COMPLETE) == 6
    assert all(set(trial.intermediate_values) <= {20, 40, 60} for trial in whole)

    folder = tmp_path / "runs" / "search" / "killed"
    process = subprocess.Popen([*run_search.command, *shared, "--name", "killed"], stdout=subprocess.DEVNULL)
    while process.poll() is None and len([*folder.glob("trials/*/version_0/metrics.json")]) < 3:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert len([*folder.glob("trials/*/version_0/metrics.json")]) < 6
    assert run_search(*shared, "--name", "killed") == folder
    killed = counted(trials_of(folder))
    assert {trial.state for trial in killed} <= {TrialState.PRUNED, TrialState.COMPLETE}
    # What was running was resumed, and what was trained before was as it is in a search that is not killed.
    assert [(t.params, t.value) for t in killed[:3]] == [(t.params, t.value) for t in whole[:3]]
    assert len(killed) == len([*folder.glob("trials/*/version_0")]) == len([*folder.glob("trials/*/version_*")]) == 6


def test_the_best_is_a_recipe_and_is_confirmed_with_fresh_seeds(run_search, capsys):
    folder = run_search("--trials", "4", "--sampler", "RandomSampler", "--pruner", "none", confirm="2")
    trials = trials_of(folder)
    best = min(trials, key=lambda trial: trial.value)
    recipe = folder / "best.yaml"
    content = yaml.safe_load(recipe.read_text())
    assert content["name"] == "best"
    assert content["model"]["optimizer"] == {"lr": best.params["model.optimizer.lr"]}
    assert "batch_size" not in content  # as by default
    searched = tuple(word for option, value in best.params.items() for word in (f"--{option}", str(value)))
    again, trained = dry_run(FAKE, [("--config", str(recipe)), ("--config", "plain.yaml", *searched)])
    for configuration in (again, trained):
        del configuration["name"], configuration["runs_dir"]
    assert again == trained

    study = folder / "confirmation" / f"trial_{best.number}"
    rows = json.loads((study / "results.json").read_text())
    assert [(row["recipe"], row["seed"]) for row in rows] == [
        (name, seed) for seed in (2, 3) for name in ("plain", f"trial_{best.number}")
    ]
    difference = sum(row["val"] for row in rows if row["recipe"] != "plain") / 2
    difference -= sum(row["val"] for row in rows if row["recipe"] == "plain") / 2
    report, printed = (folder / "report.md").read_text(), capsys.readouterr().out
    for text in (report, printed):
        assert f"Trial {best.number} had the best val/loss of the search, {best.value:.4f}." in text
        assert f"the difference in val/loss is {difference:+.4f} ±" in text
    assert {path.name for path in folder.glob("*.png")} == {"history.png", "slices.png"}


def test_a_trial_that_diverges_has_the_worst_value(run_search):
    space = ("--space", "model.optimizer.lr=0.2,3e38")
    folder = run_search("--trials", "2", "--sampler", "GridSampler", "--jobs", "1", space=space)
    values = {trial.params["model.optimizer.lr"]: trial for trial in trials_of(folder)}
    assert values["3e38"].value == math.inf
    assert {trial.state for trial in values.values()} == {TrialState.COMPLETE}
    assert math.isfinite(values["0.2"].value)
    assert "lr: 0.2" in (folder / "best.yaml").read_text()


def test_networks_that_are_too_large_are_not_trained_and_do_not_count(run_search):
    folder = run_search("--trials", "3", "--max_parameters", "1200", "--jobs", "1")
    trials = trials_of(folder)
    small = [trial for trial in trials if trial.user_attrs["parameters"] <= 1200]
    assert len(small) == 3 < len(trials)
    assert len([*folder.glob("trials/*/version_0/metrics.json")]) == 3


def test_no_values_are_tried_twice_and_a_search_ends_when_nothing_is_left(run_search, capsys, monkeypatch):
    monkeypatch.setattr("runlab.many._searching.MAX_DUPLICATES", 20)
    space = ("--space", "model.activation=Tanh,ReLU", "--space", "batch_size=2..3")
    folder = run_search("--trials", "9", "--sampler", "RandomSampler", space=space)
    assert len([*folder.glob("trials/*/version_0/metrics.json")]) == 4
    trained = counted(trials_of(folder))
    assert len({tuple(trial.params.items()) for trial in trained}) == len(trained) == 4
    assert "nothing left to try after 4 trials" in capsys.readouterr().out


def test_no_trial_is_begun_when_the_budget_is_spent(run_search):
    folder = run_search("--trials", "9", "--budget_updates", "100", "--jobs", "1", "--pruner", "none")
    assert len(trials_of(folder)) == 2


def test_a_trial_that_is_killed_is_gone_on_with_from_its_checkpoint(run_search, tmp_path):
    folder = run_search("--trials", "2", "--jobs", "1", "--killed_at", "40", "--save_every", "20")
    assert (tmp_path / "spared").exists()
    first, second = trials_of(folder)
    assert first.state == second.state == TrialState.COMPLETE
    assert list(first.intermediate_values) == [20, 40, 60]
    assert not (folder / "trials" / "0" / "version_1").exists()  # resumed, not begun again


def test_two_calls_share_a_search_and_no_trial_runs_twice(run_search, tmp_path):
    options = ["--trials", "4", "--jobs", "1", "--confirm", "0", "--pruner", "none"]
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    calls = [subprocess.Popen([*run_search.command, *options], **told) for _ in range(2)]
    printed = [call.communicate(timeout=120)[0] for call in calls]
    assert [call.returncode for call in calls] == [0, 0], printed
    folder = tmp_path / "runs" / "search" / "search"
    trials = counted(trials_of(folder))
    assert len(trials) == 4
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len([*folder.glob("trials/*/version_0")]) == len([*folder.glob("trials/*/version_*")]) == 4
    assert any("report  " in text for text in printed)


def test_threads_that_begin_at_once_begin_different_trials(tmp_path, monkeypatch):
    """Optuna alone reads a waiting trial and changes it in two steps, between which SQLite lets others read it."""
    monkeypatch.setattr(storage_module, "HEARTBEAT", None)  # Optuna warns of it where trials are asked for by hand
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        with quiet_optuna():
            study = optuna.create_study(storage=open_storage(None, folder))
            for value in range(4):
                study.enqueue_trial({"x": value})
            together = threading.Barrier(4)
            with ThreadPoolExecutor(4) as threads:
                begun = [*threads.map(lambda _, s=study, t=together: (t.wait(), s.ask().number)[1], range(4))]
        assert sorted(begun) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--space", "model.n_hiden=1..5"], "--model.n_hiden"),
        (["--space", "model.n_hidden=5..1"], "the range is empty"),
        (["--space", "model.n_hidden=0.5..2.5"], "--model.n_hidden"),
        (["--space", "model.activation=Tanh,Tnah"], "Tnah"),
        (
            ["--space", "model.n_hidden=8..16", "--model.n_hidden", "9"],
            "--model.n_hidden: is part of the search space; remove this option",
        ),
        (
            ["--space", "model.n_hidden=8..16", "--metric", "val/los"],
            "--metric val/los: validation does not report it; give one of ",
        ),
        (["--space", "model.n_hidden=8..16", "--sampler", "NoSampler"], "NoSampler"),
        (["--space", "model.n_hidden=8..16", "--pruner.n_warmup_steps", "x"], "n_warmup_steps"),
        (
            ["--space", "model.n_hidden=8..16", "--pruner", "PercentilePruner", "--pruner.percentile", "200"],
            "PercentilePruner: ",
        ),
        (["--space", "model.n_hidden=8..16", "--trials", "0"], "--trials 0"),
        (["--space", "model.n_hidden=8..16", "--storage", "nosql://a:b@c"], "--storage nosql"),
        (["--space", "model.n_hidden=8..16", "--storage", "trials.log"], "--storage trials.log"),
        (["--space", "model.optimizer.lr=0.1..0.2", "--sampler", "GridSampler"], "a grid needs a step or choices"),
        (["--space", "model.n_hidden=8..16", "--runs_dir", "/dev/null/runs"], "--runs_dir: cannot write"),
        ([], "--space: nothing to search; "),
    ],
)
def test_mistakes(args, told, run_search, fails, tmp_path):
    line = fails(lambda *given: run_search(*given, space=()), *args)
    assert told in line
    assert not [*tmp_path.glob("runs/search/search/trials/*/version_*")] or "--metric" in args


@pytest.fixture
def trials(tmp_path, monkeypatch):
    """Makes the trials of a search without a run, in the same storage each time."""
    monkeypatch.setattr(storage_module, "HEARTBEAT", None)  # Optuna warns of it where trials are asked for by hand

    def make(goal=2):
        storage = open_storage(None, tmp_path)
        study = optuna.create_study(storage=storage, study_name="search", load_if_exists=True)
        return Trials(tmp_path, study, (), read_space({"x": "0.0..1.0"}), Goal(goal))

    with quiet_optuna():
        yield make


def begin(trials, number):
    """A trial that is said to run, as a killed call leaves it."""
    trial = trials.study.ask()
    trials.axes[0].suggest(trial)
    trial.set_user_attr(FOLDER, "")
    assert trial.number == number
    (trials.folder / "trials" / str(number)).mkdir(parents=True)
    return trial


def test_a_search_is_not_resumed_in_another_space(trials):
    first = trials()
    first.define({"space": "x"})
    trials().define({"space": "y"})  # there is no trial yet
    begin(first, 0)
    with pytest.raises(UserError, match="that search was started with a different space; use a new name"):
        trials().define({"space": "x"})


def test_an_interrupted_sampler_leaves_no_trial_that_counts(trials):
    """A trial is there before its values are."""
    trials().study.ask()
    assert (trials().all, trials().missing) == ([], 2)


def test_a_trial_that_a_killed_call_left_is_queued_again_under_its_number(trials):
    left = begin(trials(), 0)
    left.report(0.5, 20)
    trained = begin(trials(), 1)
    with alone_in(trials().folder / "trials" / "1"):
        trials().requeue_interrupted()
        assert [trial.state for trial in trials().all] == [TrialState.WAITING, TrialState.RUNNING]
        assert trials().missing == 1
        again = trials().study.ask()
    trials().axes[0].suggest(again)
    assert (again.number, again.params) == (0, left.params)
    assert trials().all[0].intermediate_values == {20: 0.5}
    trials().study.tell(trained, 1.0)
    trials().requeue_interrupted()  # one that has ended stays so
    assert trials().all[1].state == TrialState.COMPLETE


def test_without_optuna_one_line_tells_what_to_do(run_search, fails, monkeypatch):
    for name in (
        "optuna",
        "runlab.many._storage",
        "runlab.many._space",
        "runlab.many._searching",
        "runlab.many._trials",
    ):
        monkeypatch.setitem(sys.modules, name, None)
    assert "`make search` installs it" in fails(run_search)


def test_the_trial_of_a_lost_machine_is_tried_again(run_search, tmp_path, monkeypatch):
    monkeypatch.setattr(storage_module, "HEARTBEAT", 1)
    monkeypatch.setattr(storage_module, "PATIENCE", 1)
    folder = tmp_path / "runs" / "search" / "search"
    folder.mkdir(parents=True)
    space = {axis.option: axis.distribution for axis in read_space(from_words(AXES))}
    with quiet_optuna():
        storage = open_storage(None, folder)
        with pytest.warns(UserWarning, match="Heartbeat of storage"):  # as it is asked for by hand
            lost = optuna.create_study(storage=storage, study_name="search").ask(space)
        storage.record_heartbeat(lost._trial_id)
    time.sleep(2.5)
    run_search("--trials", "2", "--jobs", "1", "--pruner", "none")
    trials = trials_of(folder)
    assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert trials[1].params == lost.params
    assert "2 trials: 2 trained to the end" in (folder / "report.md").read_text()


@pytest.mark.usefixtures("run_search")
def test_a_search_in_python_does_the_same(tmp_path):
    space = {"model.n_hidden": "4..32 step 4", "batch_size": [2, 3]}
    made = Search(FAKE, "plain.yaml", space, Goal(2), "python", tmp_path, [], confirm=0)
    result = made.run()
    assert len(result.trials) == 2
    assert result.best.value == min(trial.value for trial in result.trials)
    assert result.recipe == tmp_path / "search" / "python" / "best.yaml"
    assert result.confirmation is None


def test_samplers_and_pruners_are_those_of_optuna_with_their_arguments():
    axes = read_space({"model.n_hidden": "8..16 step 4", "model.activation": "Tanh,ReLU"})
    tpe = _search._sampler("TPESampler", ["--sampler.n_startup_trials", "3"], axes)
    assert type(tpe) is optuna.samplers.TPESampler
    assert tpe._n_startup_trials == 3
    draws = [_search._sampler("TPESampler", words, axes)._rng.rng.random() for words in ([], [], ["--sampler.seed=1"])]
    assert draws[0] == draws[1] != draws[2]
    grid = _search._sampler("GridSampler", [], axes)
    assert grid._search_space == {"model.activation": ["Tanh", "ReLU"], "model.n_hidden": [8, 12, 16]}
    assert type(_search._sampler("CmaEsSampler", [], axes)) is optuna.samplers.CmaEsSampler
    pruner = _search._pruner("HyperbandPruner", ["--pruner.min_resource=5000"])
    assert _search._pruner("HyperbandPruner", ["--pruner.max_resource", "60"])._max_resource == 60  # not a word
    assert (type(pruner), pruner._min_resource) == (optuna.pruners.HyperbandPruner, 5000)
    assert type(_search._pruner("none", [])) is optuna.pruners.NopPruner


@pytest.mark.parametrize(
    ("losses", "direction", "verdict"),
    [
        ([2.0, 2.01, 2.0], "minimize", "better"),
        ([2.2, 2.21, 2.2], "minimize", "worse"),
        ([2.0, 2.2, 2.1], "minimize", "not told apart"),
        ([2.2, 2.21, 2.2], "maximize", "better"),
        ([2.0], "minimize", "not told apart"),  # one pair has no interval
    ],
)
def test_a_verdict_needs_an_interval_on_one_side_of_zero(losses, direction, verdict, tmp_path):
    recipe, found = tmp_path / "base.yaml", tmp_path / "best.yaml"
    recipe.write_text("name: base\n")
    found.write_text("name: best\n")

    def train(runs):
        for run in runs:
            loss = losses[run.seed - 1] if run.path.stem == "trial_7" else 2.1
            folder = run.folder / "version_0"
            folder.mkdir(parents=True)
            metrics = {split: {"loss": loss} for split in ("train", "val", "test")}
            metrics |= {"updates": 9, "updates_per_second": 1.0, "corpus": {"sha256": ""}}
            (folder / "metrics.json").write_text(json.dumps(metrics))
            np.save(folder / "losses.npy", np.ones(9, np.float32))
        return runs

    goal, seeds = Goal(9, direction=direction), range(1, len(losses) + 1)
    found = confirm_best(
        tmp_path / "trial_7", recipe, found, seeds, [], goal, train, ["search.py"], Console(quiet=True)
    )
    assert found.verdict == verdict
    assert found.lost == 0
    assert found.change == pytest.approx(sum(losses) / len(losses) - 2.1)


def test_a_seed_with_which_the_best_has_no_result_is_named(tmp_path):
    recipe, found = tmp_path / "base.yaml", tmp_path / "best.yaml"
    for path in (recipe, found):
        path.write_text("name: any\n")

    def train(runs):
        for run in runs:
            if run.path.stem != "trial_7" or run.seed == 1:  # with seed 2 its loss diverges
                folder = run.folder / "version_0"
                folder.mkdir(parents=True)
                metrics = {split: {"loss": 2.0} for split in ("train", "val", "test")}
                metrics |= {"updates": 9, "updates_per_second": 1.0, "corpus": {"sha256": ""}}
                (folder / "metrics.json").write_text(json.dumps(metrics))
                np.save(folder / "losses.npy", np.ones(9, np.float32))
        return runs

    console = Console(quiet=True)
    result = confirm_best(tmp_path / "trial_7", recipe, found, (1, 2), [], Goal(9), train, ["search.py"], console)
    assert (result.seeds, result.lost) == (1, 1)
    best = optuna.create_study()
    best.add_trial(optuna.trial.create_trial(value=2.0))
    assert _verdict(best.trials[0], Goal(9), result).endswith("It had no result for 1 more seed.")


def test_a_password_is_shown_nowhere():
    for text in (
        "postgresql+psycopg://me:se:cret@host:5432/db",
        "--storage=mysql://me:secret@host/db",
        "postgresql://:secret@host/db",
        "postgresql:/me:secret@host/db",
        "postgresql://host/db?user=me&password=secret",
    ):
        assert "cret" not in without_password(text)
    assert without_password("sqlite:///a:b/c.db") == "sqlite:///a:b/c.db"


@pytest.mark.slow
def test_two_calls_share_a_postgresql(run_search, postgresql, tmp_path):
    """Debian's package, and a driver: the extra `databases`."""
    options = ["--trials", "8", "--jobs", "1", "--confirm", "0", "--pruner", "none", "--storage", postgresql]
    calls = [subprocess.Popen([*run_search.command, *options], cwd=folder) for folder in (tmp_path, tmp_path / "other")]
    assert [call.wait(timeout=200) for call in calls] == [0, 0]
    trials = counted(trials_of(tmp_path / "search", postgresql))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len(trials) == 8
    runs = [[*folder.glob("runs/search/search/trials/*/version_0")] for folder in (tmp_path, tmp_path / "other")]
    assert sum(map(len, runs)) == len(trials)  # each on one machine
    assert all(runs)
    report = next(tmp_path.rglob("report.md")).read_text()
    assert "secret" not in report


@pytest.fixture
def postgresql(tmp_path):
    """The URL of a database of an own server."""
    (tmp_path / "other").mkdir()
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
    folder = Path(tempfile.mkdtemp())
    as_user = []
    if os.geteuid() == 0:  # which the server refuses
        shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    (folder / "password").write_text("secret")
    (folder / "password").chmod(0o644)
    make = [
        binaries / "initdb",
        "-D",
        folder / "data",
        "-U",
        "optuna",
        "-A",
        "scram-sha-256",
        f"--pwfile={folder}/password",
    ]
    subprocess.run([*as_user, *make], check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = [binaries / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-h", "localhost"]
    process = subprocess.Popen([*as_user, *server], stderr=subprocess.DEVNULL)
    try:
        while subprocess.run([binaries / "pg_isready", "-h", "localhost", "-p", str(port), "-q"]).returncode:
            time.sleep(0.1)
        yield f"postgresql+psycopg://optuna:secret@localhost:{port}/postgres"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


@pytest.mark.parametrize(("number", "status", "jobs"), [(signal.SIGINT, 130, "2"), (signal.SIGTERM, 143, "1")])
def test_a_signal_ends_a_search_and_the_next_call_resumes_its_trials(number, status, jobs, run_search, tmp_path):
    options = ["--trials", "3", "--jobs", jobs, "--confirm", "0", "--pruner", "none", "--save_every", "10"]
    command = [*run_search.command, *options, "--pause", "0.01"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "runs" / "search" / "search"
    while process.poll() is None and len([*folder.glob("trials/*/version_0/checkpoints/last.ckpt")]) < int(jobs):
        time.sleep(0.02)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in printed
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = counted(trials_of(folder))
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert len([*folder.glob("trials/*/version_*")]) == 3


def test_a_pruned_trial_stays_one_if_its_search_is_killed_before_optuna_hears_of_it(run_search):
    options = ("--trials", "8", "--jobs", "1", "--pruner.n_startup_trials", "1")
    folder = run_search(*options)
    states = [trial.state for trial in trials_of(folder)]
    assert states.count(TrialState.PRUNED) > 0
    with sqlite3.connect(folder / "optuna.db") as database:
        database.execute("update trials set state = 'RUNNING' where state = 'PRUNED'")
    run_search(*options)
    assert [trial.state for trial in trials_of(folder)] == states


def test_a_path_that_a_database_would_cut_is_refused(run_search, fails):
    for name in ("what?", "a{b}", "50%41"):
        assert "has one of the characters ?%{}; give another name" in fails(run_search, "--name", name)


def test_a_grid_has_no_digits_of_rounding():
    (axis,) = read_space({"x": "0.1..0.3 step 0.1"})
    assert axis.grid == [0.1, 0.2, 0.3]
    assert axis.words(-3e-05) == ("--x=-3e-05",)


def test_confirming_runs_have_the_options_of_the_script(run_search, monkeypatch):
    monkeypatch.setattr("tests.runlab.test_search.FAKE", replace(FAKE, options=("--batch_size", "4")))
    folder = run_search("--trials", "1", confirm="1")
    configs = [json.loads(path.read_text()) for path in folder.glob("confirmation/**/config.yaml")]
    assert [config["batch_size"] for config in configs] == [4, 4]


@pytest.mark.slow
def test_a_recipe_may_be_edited_while_its_search_runs(run_search, tmp_path):
    options = ("--trials", "3", "--jobs", "1", "--confirm", "0", "--pruner", "none", "--pause", "0.01")
    space = ("--space", "model.optimizer.lr=0.1..0.2")
    command = [*run_search.command[:4], *space, *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and not [*tmp_path.rglob("trials/0/version_0/config.yaml")]:
        time.sleep(0.02)
    (tmp_path / "plain.yaml").write_text("model: {n_hidden: 400}\n")
    assert process.wait(timeout=60) == 0
    configs = [json.loads(path.read_text()) for path in tmp_path.rglob("trials/*/version_0/config.yaml")]
    assert [one["model"]["n_hidden"] for one in configs] == [8, 8, 8]
    assert "n_hidden" not in (tmp_path / "runs/search/search/best.yaml").read_text()


@pytest.mark.slow
def test_what_the_environment_sets_belongs_to_a_search(run_search, fails, monkeypatch):
    run_search("--trials", "1")
    monkeypatch.setenv("PL_TRAINER_MAX_STEPS", "400")
    assert "started with a different environment" in fails(run_search, "--trials", "2")


def test_trials_of_different_corpora_are_not_ranked(run_search, fails):
    folder = run_search("--trials", "1")
    with sqlite3.connect(folder / "optuna.db") as database:
        database.execute("update trial_user_attributes set value_json = '\"another\"' where key = 'corpus'")
    assert "trials 0 and 1 were trained on different corpora" in fails(run_search, "--trials", "2")


@pytest.mark.usefixtures("run_search")
def test_a_recipe_named_as_a_trial_is_confirmed_against_that_trial(tmp_path):
    shutil.copy(tmp_path / "plain.yaml", tmp_path / "trial_0.yaml")
    args = ["trial_0.yaml", "--space", "model.n_hidden=20,30", "--trials", "1", "--confirm", "2", "--jobs", "1"]
    command(search_command)(FAKE, args)
    study = tmp_path / "runs/search/search/confirmation/trial_0"
    rows = json.loads((study / "results.json").read_text())
    assert [(row["recipe"], row["seed"]) for row in rows] == [
        (name, seed) for seed in (2, 3) for name in ("trial_0", "best")
    ]


@pytest.mark.slow
def test_searches_that_share_a_database_share_no_trials(run_search):
    shared = ("--trials", "1", "--storage", "sqlite:///shared.db", "--jobs", "1")
    for name in ("tpe/lr", "random/lr"):
        folder = run_search(*shared, "--name", name)
        assert len([*folder.glob("trials/*/version_0/metrics.json")]) == 1


def test_an_interrupted_search_whose_budget_is_spent_ends_its_trials(run_search, tmp_path):
    options = ("--trials", "9", "--jobs", "2", "--confirm", "0", "--pruner", "none", "--budget_updates", "60")
    command = [*run_search.command, *options, "--pause", "0.02", "--save_every", "5"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "runs/search/search"
    while process.poll() is None:
        time.sleep(0.05)
        saved = [json.loads(path.read_text())["update"] for path in folder.glob("trials/*/version_0/checkpoints/*")]
        if len(saved) == 2 and min(saved) > 40:
            process.send_signal(signal.SIGINT)
            break
    assert process.wait(timeout=60) == 130
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [trial.state for trial in counted(trials_of(folder))] == [TrialState.COMPLETE] * 2
    assert (folder / "best.yaml").exists()


def test_a_limit_that_was_raised_is_not_judged_by_the_trials_before(run_search, fails, monkeypatch):
    monkeypatch.setattr("runlab.many._searching.MAX_DUPLICATES", 4)
    space = ("--space", "model.n_hidden=20..99")
    options = ("--trials", "2", "--jobs", "1")
    assert "almost all networks of the space are larger" in fails(
        lambda: run_search(*options, "--max_parameters", "100", space=space)
    )
    folder = run_search(*options, "--max_parameters", "9000", space=space)
    assert len(counted(trials_of(folder))) == 2


def test_a_best_trial_without_any_result_of_fresh_seeds_is_told(tmp_path):
    recipe, found = tmp_path / "base.yaml", tmp_path / "best.yaml"
    for path in (recipe, found):
        path.write_text("name: any\n")
    console = Console(record=True, file=io.StringIO())
    result = confirm_best(tmp_path / "trial_7", recipe, found, (1, 2), [], Goal(9), list, ["search.py"], console)
    assert (result.seeds, result.lost) == (0, 2)
    best = optuna.create_study()
    best.add_trial(optuna.trial.create_trial(value=2.0))
    assert "It could not be confirmed: no fresh seed has a result" in _verdict(best.trials[0], Goal(9), result)
    assert console.export_text().count("failed: trial_7, seed") == 2


def test_a_full_disk_is_one_line(run_search, fails, monkeypatch):
    def fill(*_, **__):
        raise optuna.exceptions.StorageInternalError from OSError(28, "No space left on device")

    monkeypatch.setattr(storage_module.RDBStorage, "set_trial_user_attr", fill)
    line = fails(run_search, "--trials", "1", "--jobs", "1")
    assert "optuna.db cannot be written ([Errno 28] No space left on device)" in line


NEEDY = """
import sys
from pathlib import Path
from tests.runlab import fake

if __name__ == "__main__":
    if "--corpus" not in sys.argv and "--resume" not in sys.argv:
        sys.exit("error: --corpus is required")
    at = sys.argv.index("--corpus") if "--corpus" in sys.argv else len(sys.argv)
    fake.main(sys.argv[1:at] + sys.argv[at + 2:])
"""


@pytest.mark.usefixtures("run_search")
def test_a_script_that_needs_an_option_has_a_best_recipe(tmp_path):
    (tmp_path / "needy.py").write_text(NEEDY)
    args = ["plain.yaml", "--space", "model.n_hidden=20,30", "--trials", "1", "--confirm", "0", "--corpus", "x"]
    command(search_command)(replace(FAKE, path=tmp_path / "needy.py"), args)
    assert yaml.safe_load((tmp_path / "runs/search/search/best.yaml").read_text())["model"]["n_hidden"] in (20, 30)


def test_a_confirmation_keeps_the_seeds_that_it_has(run_search):
    folder = run_search("--trials", "1", "--jobs", "2", confirm="3")
    (study,) = folder.glob("confirmation/trial_*")
    run_search("--trials", "1", "--jobs", "2", confirm="2")
    assert {row["seed"] for row in json.loads((study / "results.json").read_text())} == {2, 3, 4}


def test_the_last_call_that_confirms_gives_the_verdict(run_search, capsys):
    folder = run_search("--trials", "1", "--jobs", "1", confirm="1")
    (study,) = folder.glob("confirmation/trial_*")
    (folder / "report.md").unlink()
    (run,) = study.glob("runs/plain/seed_2")
    shutil.rmtree(run / "version_0")
    with alone_in(run):  # as another call does
        run_search("--trials", "1", "--jobs", "1", confirm="1")
    assert "other processes are still confirming the best trial" in capsys.readouterr().out
    assert not (folder / "report.md").exists()
    run_search("--trials", "1", "--jobs", "1", confirm="1")
    assert "Retrained with 1 fresh seed" in (folder / "report.md").read_text()


@pytest.mark.parametrize(("trials", "jobs"), [("3", "1"), pytest.param("4", "2", marks=pytest.mark.slow)])
def test_a_search_of_fewer_points_than_trials_ends(trials, jobs, run_search, capsys, monkeypatch):
    monkeypatch.setattr("runlab.many._searching.MAX_DUPLICATES", 9)
    space = ("--space", "model.activation=Tanh,ReLU")
    folder = run_search("--trials", trials, "--jobs", jobs, space=space)
    assert len(counted(trials_of(folder))) == 2
    assert "nothing left to try after 2 trials" in capsys.readouterr().out
    tried = len(trials_of(folder))
    run_search("--trials", trials, "--jobs", jobs, space=space)
    assert len(trials_of(folder)) <= tried + int(jobs)  # it is known by now


def test_what_the_environment_sets_is_not_searched(run_search, fails, monkeypatch):
    monkeypatch.setenv("PL_MODEL__N_HIDDEN", "50")
    line = fails(run_search, "--trials", "1")
    assert "--model.n_hidden: is part of the search space; unset its variable" in line


def test_a_recipe_is_copied_as_it_is(run_search, tmp_path):
    (tmp_path / "plain.yaml").write_bytes(b"model: {norm: false}\r\nbatch_size: 16\r\n")
    folder = run_search("--trials", "1")
    assert (folder / "recipes/plain.yaml").read_bytes() == (tmp_path / "plain.yaml").read_bytes()


def test_a_recipe_that_cannot_be_read_is_one_line(run_search, fails, tmp_path):
    (tmp_path / "plain.yaml").write_bytes(b"name: \xff")
    assert "plain.yaml cannot be read (it is not UTF-8 text)" in fails(run_search, "--trials", "1")
    (tmp_path / "plain.yaml").unlink()
    assert "plain.yaml cannot be read (No such file or directory)" in fails(run_search, "--trials", "1")


def test_a_search_that_has_the_name_of_its_folder_in_a_shared_database_goes_on(run_search, monkeypatch):
    """As version 0.2 named it."""
    shared = ("--storage", "sqlite:///shared.db", "--jobs", "1", "--name", "tpe/lr")
    with monkeypatch.context() as patch:
        patch.setattr("runlab.many._searching.Search._study_name", lambda *_: "lr")
        run_search("--trials", "1", *shared)
    folder = run_search("--trials", "2", *shared)
    assert len(trials_of(folder, "sqlite:///shared.db")) == 2


def test_another_file_is_refused_in_its_short_form_too(run_search, fails):
    for words in (("-c", "other.yaml"), ("-cother.yaml",), ("-c=other.yaml",)):
        assert "--config: each recipe is one file" in fails(run_search, "--trials", "1", *words)
