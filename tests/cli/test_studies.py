"""Studies and searches of real trainings; tests/runlab has their rules, with a script that trains nothing."""

import json

import numpy as np
import optuna
import pytest
import yaml

from ngram_mlp.cli import compare, search
from ngram_mlp.cli.compare import TRAINING
from runlab.many._dry_run import dry_run
from runlab.many._storage import open_storage, quiet_optuna
from tests.conftest import PROJECT

RECIPES = [str(PROJECT / "configs" / "experiments" / f"{name}.yaml") for name in ("002_no_norm", "002_batch_norm")]


@pytest.fixture
def shared(tmp_path, monkeypatch, corpus_file):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as other tests run beside
    return ["--data.corpus", str(corpus_file), "--trainer.max_steps", "60", "--trainer.val_check_interval", "20"]


def trials_of(folder):
    with quiet_optuna():
        return optuna.load_study(study_name=folder.name, storage=open_storage(None, folder)).trials


def test_a_study_reports_what_its_runs_leave(tmp_path, shared, capsys):
    compare.main([*RECIPES, "--jobs", "2", "--seeds", "1", "--name", "study", *shared])
    folder = tmp_path / "runs" / "compare" / "study"
    rows = json.loads((folder / "results.json").read_text())
    assert [row["recipe"] for row in rows] == ["002_no_norm", "002_batch_norm"]
    for row in rows:
        run = folder / "runs" / row["recipe"] / "seed_1" / "version_0"
        assert row["val"] == json.loads((run / "metrics.json").read_text())["val"]["loss"]
        assert row["first_loss"] == pytest.approx(float(np.load(run / "losses.npy")[0]))
        assert row["error"] is None
    assert "002_batch_norm" in capsys.readouterr().out


def test_the_best_recipe_names_its_classes_and_trains_as_it_was_searched(tmp_path, shared):
    """A value that is overridden in another spelling is the trial's, too, when it is confirmed."""
    axes = ("--space", "model.optimizer.lr=0.05,0.1", "--space", "model.activation=Tanh,ReLU")
    given = [*shared, "--model.optimizer.init_args.lr", "0.123"]
    search.main([RECIPES[0], *axes, "--trials", "2", "--pruner", "none", "--confirm", "1", *given])
    folder = tmp_path / "runs" / "search" / "search"
    best = min((one for one in trials_of(folder) if one.value is not None), key=lambda trial: trial.value)
    content = yaml.safe_load((folder / "best.yaml").read_text())
    assert content["model"]["init_args"]["optimizer"]["init_args"] == {"lr": float(best.params["model.optimizer.lr"])}
    assert "n_embd" not in content["model"]["init_args"]  # as by default
    searched = [word for option, value in best.params.items() for word in (f"--{option}", str(value))]
    calls = [("--config", str(folder / "best.yaml")), ("--config", RECIPES[0], *shared, *searched)]
    again, trained = dry_run(TRAINING, calls)
    run = folder / "confirmation" / f"trial_{best.number}" / "runs" / f"trial_{best.number}" / "seed_1" / "version_0"
    confirmed = yaml.safe_load((run / "config.yaml").read_text())
    for group in ("model", "data", "trainer"):
        assert again[group] == trained[group] == confirmed[group]


KILLER = """
import os
import signal
from pathlib import Path

from pytorch_lightning import Callback


class Killer(Callback):
    def on_validation_end(self, trainer, pl_module):
        if trainer.global_step == 40 and not Path("spared").exists():
            Path("spared").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_trial_that_is_killed_resumes_from_its_checkpoint(tmp_path, shared, monkeypatch):
    (tmp_path / "killer_of_trials.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path)
    killed = ["--trainer.callbacks+=killer_of_trials.Killer", "--checkpoint_every", "20"]
    axes = ("--space", "model.n_hidden=4..32 step 4")
    search.main([RECIPES[0], *axes, "--trials", "2", "--jobs", "1", "--confirm", "0", *shared, *killed])
    folder = tmp_path / "runs" / "search" / "search"
    assert (tmp_path / "spared").exists()
    assert list(trials_of(folder)[0].intermediate_values) == [20, 40, 60]
    assert not (folder / "trials" / "0" / "version_1").exists()
