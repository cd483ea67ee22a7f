"""Every configuration that the project ships trains."""

import collections
import json
import math
import os
import random
import re

import numpy as np
import pytest
import yaml

from tests.conftest import PROJECT

EXPERIMENTS = sorted((PROJECT / "configs" / "experiments").glob("*.yaml"))
PARAMETERS = {
    "004_plain": 10_281,
    "004_output_scaled": 10_281,
    "004_hidden_scaled": 10_281,
    "004_kaiming": 11_897,
    "004_kaiming_batch_norm": 12_097,
    "004_batch_norm": 10_881,
    "004_running_batch_norm": 10_881,
    "002_no_norm": 11_897,
    "002_batch_norm": 12_297,
    "002_running_batch_norm": 12_097,
    "000_batch_norm": 12_097,
    "wavenet": 76_579,
    "deep_batch_norm": 270 + 3_000 + 4 * 10_000 + 2_700 + 2 * 527,
}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_trains_with_the_parameters_of_its_notebook(path, run_train):
    folder, out = run_train("--config", str(path), "--data.corpus", "sample", "--trainer.max_steps", "50")
    assert folder.parent.name == path.stem
    assert len(np.load(folder / "losses.npy")) == 50
    (count,) = re.findall(r"([\d,]+) parameters", out)
    # The sample corpus has the notebooks' 27 characters.
    assert int(count.replace(",", "")) == PARAMETERS.get(path.stem, int(count.replace(",", "")))
    assert f"{count} parameters" in path.read_text() or path.stem not in PARAMETERS
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["statistics"] == ("batch" if path.stem.endswith(("004_batch_norm", "002_batch_norm")) else "running")


@pytest.mark.parametrize("path", sorted((PROJECT / "configs" / "depth").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_of_the_depth_study_is_what_its_name_says(path, run_train):
    folder, _ = run_train("--config", str(path), "--model.n_layers", "3", "--trainer.max_steps", "1")
    model = yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]
    norm, _, weights = path.stem.rpartition("_")
    assert ("batch_norm" in model) == (norm == "batch_norm")
    assert model.get("norm", {}).get("kind", "none") == ("layer" if norm == "layer_norm" else "none")
    assert model["residual"] == (norm == "residual")
    assert ("sqrt(fan_in)" in model["initialization"]["hidden_weight"]) == (weights == "kaiming")
    assert model["n_hidden"] == 100


def test_the_fast_preset_does_everything_once(run_train):
    experiment = PROJECT / "configs" / "experiments" / "004_kaiming.yaml"
    folder, _ = run_train(
        *("--config", str(experiment), "--config", str(PROJECT / "configs" / "debug" / "fast.yaml")),
        *("--observe.every_n_updates", "20/50/0"),
    )
    assert {"config.yaml", "losses.npy", "metrics.json", "samples.txt", "verdicts.json"} <= {*os.listdir(folder)}
    assert (folder / "figures" / "saturation.png").exists()
    assert (folder / "checkpoints" / "last.ckpt").exists()


@pytest.mark.slow
def test_the_overfitting_preset_comes_close_to_what_its_words_leave_uncertain(run_train, monkeypatch, tmp_path):
    monkeypatch.chdir(PROJECT)
    folder, _ = run_train(
        *("--config", "configs/debug/overfit.yaml", "--data.corpus", "data/few_words.txt"),
        *("--runs_dir", str(tmp_path), "--trainer.max_steps", "2000"),
    )
    words = (PROJECT / "data" / "few_words.txt").read_text().split()
    random.Random(42).shuffle(words)
    successors = collections.defaultdict(collections.Counter)
    for word in words[: int(0.8 * len(words))]:
        for position, character in enumerate(word + "."):
            successors[word[:position]][character] += 1
    counts = [(n, sum(after.values())) for after in successors.values() for n in after.values()]
    uncertainty = -sum(n * math.log(n / total) for n, total in counts) / sum(n for n, _ in counts)
    assert f"{uncertainty:.2f} nats" in (PROJECT / "configs" / "debug" / "overfit.yaml").read_text()
    train = json.loads((folder / "metrics.json").read_text())["train"]["loss"]
    assert uncertainty < train < uncertainty + 0.1


def test_first_losses_tell_the_notebooks_story(run_train):
    def first_loss(name):
        config = PROJECT / "configs" / "experiments" / f"{name}.yaml"
        folder, _ = run_train("--config", str(config), "--data.corpus", "sample", "--trainer.max_steps", "1")
        return np.load(folder / "losses.npy")[0]

    uniform = np.log(27)
    assert first_loss("004_plain") > 20
    for name in ("004_output_scaled", "004_hidden_scaled", "004_kaiming", "004_batch_norm", "000_batch_norm"):
        assert first_loss(name) == pytest.approx(uniform, abs=0.1), name


def test_the_default_run_is_the_last_recipe_of_notebook_002(run_train):
    recipes = []
    for args in ([], ["--config", str(PROJECT / "configs" / "experiments" / "002_running_batch_norm.yaml")]):
        folder, _ = run_train(*args, "--trainer.max_steps", "1")
        config = yaml.safe_load((folder / "config.yaml").read_text())
        del config["name"]
        recipes.append((config, np.load(folder / "losses.npy").tobytes()))
    config, losses = recipes[0]
    other, other_losses = recipes[1]
    assert losses == other_losses
    config["model"]["init_args"].pop("initialization"), other["model"]["init_args"].pop("initialization")
    assert config == other
