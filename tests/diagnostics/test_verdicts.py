import json
import math

import pytest
import torch

from ngram_mlp.cli import check
from ngram_mlp.diagnostics.judging import judge_initialization, judge_training
from ngram_mlp.diagnostics.snapshot import take_snapshot
from ngram_mlp.diagnostics.verdicts import Verdict, as_json, as_markdown, worst
from ngram_mlp.models import MLP, BatchNormMLP
from ngram_mlp.models.layers import Initialization, Normalization
from tests.conftest import PROJECT

DEFAULT = PROJECT / "configs" / "default.yaml"


def judged(model=MLP, **options):
    torch.manual_seed(0)
    initialization = Initialization(**options.pop("initialization", {}))
    model = model("." + "abcdefghijklmnopqrstuvwxyz", 3, initialization=initialization, **options)
    snapshot = take_snapshot(model.network, torch.randint(27, (32, 3)), torch.randint(27, (32,)))
    return {verdict.about: verdict for verdict in judge_initialization(snapshot)}


@pytest.mark.parametrize("n_layers", [1, 5])
@pytest.mark.parametrize("kind", ["none", "batch", "layer"])
def test_principled_initializations_are_ok(kind, n_layers):
    norm = {"model": BatchNormMLP} if kind == "batch" else {"norm": Normalization(kind)}
    verdicts = judged(**norm, n_layers=n_layers, n_hidden=100)
    assert {v.level for v in verdicts.values()} == {"ok"}, verdicts


@pytest.mark.parametrize(
    ("options", "about", "cause"),
    [
        ({"initialization": {"output_weight": "normal"}}, "first loss", "confidently wrong"),
        ({"initialization": {"output_weight": "normal"}}, "spread of the logits", "too large"),
        ({"initialization": {"hidden_weight": "normal"}}, "saturation", "too large"),
        ({"initialization": {"hidden_weight": "normal", "hidden_bias": "constant * 30"}}, "dead units", "no gradient"),
        (
            {"initialization": {"hidden_weight": "normal * 0.02"}, "n_layers": 5},
            "gain of the hidden layers",
            "vanish",
        ),
        (
            {"initialization": {"hidden_weight": "normal * 0.5"}, "n_layers": 5, "activation": "ReLU"},
            "gain of the hidden layers",
            "explode",
        ),
    ],
)
def test_each_mistake_is_called_bad_with_its_cause_and_a_remedy(options, about, cause):
    verdict = judged(**options)[about]
    assert verdict.level == "bad"
    assert cause in verdict.finding
    assert verdict.remedy


def test_half_a_relu_is_no_saturation():
    assert judged(activation="ReLU")["saturation"].level == "ok"


def test_a_loss_that_is_not_finite_is_bad():
    verdicts = judged(initialization={"output_weight": "normal * 1e38", "hidden_weight": "normal * 10"})
    assert verdicts["first loss"].level == "bad"
    text = json.dumps(as_json(list(verdicts.values())), allow_nan=False)
    assert json.loads(text)["verdict"] == "bad"


def test_training_is_judged_by_what_happened():
    healthy = judge_training({"w": [-3.2, -3.0, -2.8]}, [0.01, 0.02], {"hidden1": 0.0}, (2.05, 2.10))
    assert [v.level for v in healthy] == ["ok"] * 4
    slow, vanishing, dead, gap = judge_training(
        {"w": [-6.1, -6.0, -5.9], "v": [-3.0]}, [1e-5, 1e-2], {"hidden1": 0.0, "hidden2": 0.2}, (1.0, 2.5)
    )
    assert worst([slow, vanishing, dead, gap]) == "bad"
    assert "w" in slow.finding
    assert "raise the learning rate" in slow.remedy
    assert "vanish" in vanishing.finding
    assert "hidden2" in dead.finding
    assert "memorizes" in gap.finding
    (fast,) = judge_training({"w": [-0.2]}, [0.01], {}, None)
    assert (fast.level, "lower" in fast.remedy) == ("bad", True)
    (exploding,) = judge_training({}, [3.0, 0.01], {}, None)
    assert "explode" in exploding.finding


def test_records_hold_what_was_found():
    verdicts = [Verdict("a", "warning", math.inf, "found", "do"), Verdict("b", "ok", 1.5, "fine")]
    assert as_json(verdicts) == {
        "verdict": "warning",
        "findings": [
            {"about": "a", "level": "warning", "value": None, "finding": "found", "remedy": "do"},
            {"about": "b", "level": "ok", "value": 1.5, "finding": "fine", "remedy": ""},
        ],
    }
    assert as_markdown(verdicts).splitlines()[2] == "| a | **warning** | found | do |"
    assert worst([]) == "ok"


@pytest.mark.parametrize(
    ("experiment", "status", "bad"),
    [
        ("004_plain", 1, {"first loss", "spread of the logits", "saturation"}),
        ("004_hidden_scaled", 0, set()),
        ("002_running_batch_norm", 0, set()),
    ],
)
def test_check_tells_the_notebooks_networks_apart_without_training(experiment, status, bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = PROJECT / "configs" / "experiments" / f"{experiment}.yaml"
    args = ["--config", str(config), "--data.corpus", "sample", "--output", "out.json"]
    if status:
        with pytest.raises(SystemExit) as stop:
            check.main(DEFAULT, args)
        assert stop.value.code == status
    else:
        check.main(DEFAULT, args)
    record = json.loads((tmp_path / "out.json").read_text())
    assert {f["about"] for f in record["findings"] if f["level"] == "bad"} == bad
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]  # no run


def test_check_judges_the_very_minibatch_that_a_run_begins_with(run_train, corpus_file):
    folder, _ = run_train("--trainer.max_steps", "1", "--seed_everything", "5", "--observe.every_n_updates", "0/0/0")
    check.main(DEFAULT, ["--data.corpus", str(corpus_file), "--seed_everything", "5", "--output", "check.json"])
    checked = json.loads((corpus_file.parent / "check.json").read_text())
    assert checked == json.loads((folder / "preflight.json").read_text())


def test_check_does_not_ignore_a_checkpoint(run_train, fails):
    folder, _ = run_train("--trainer.max_steps", "1")
    assert "leave them out" in fails(check.main, DEFAULT, ["--resume", str(folder)])
