import json
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from nltk.lm import Vocabulary
from nltk.lm.models import InterpolatedLanguageModel
from nltk.lm.smoothing import KneserNey

from ngram_mlp.cli import check
from ngram_mlp.data import NGramDataModule, NGrams
from ngram_mlp.diagnostics.counting import CountedNGrams, counted_losses
from ngram_mlp.diagnostics.final_verdicts import judge_training
from ngram_mlp.diagnostics.initial_verdicts import (
    Budget,
    arguments_of,
    evenly_spaced,
    judge_initialization,
    judge_model,
)
from ngram_mlp.diagnostics.snapshot import take_snapshot
from ngram_mlp.diagnostics.trial import clipping, try_updates
from ngram_mlp.diagnostics.verdicts import Verdict, as_json, as_markdown, worst
from ngram_mlp.models import MLP, BatchNormMLP
from ngram_mlp.models.layers import Initialization, Normalization
from tests.conftest import PROJECT

DEFAULT = PROJECT / "configs" / "default.yaml"
KAIMING = {"initialization.hidden_weight": "normal * gain / sqrt(fan_in)", "initialization.hidden_bias": "auto"}
LAYER_NORM = {"norm.kind": "layer"}


def made(model=MLP, vocabulary="." + "abcdefghijklmnopqrstuvwxyz", **options):
    torch.manual_seed(0)
    initialization = Initialization(**options.pop("initialization", {}))
    return model(vocabulary, 3, initialization=initialization, **options)


def judged(model=MLP, **options):
    model = made(model, **options)
    snapshot = take_snapshot(model.network, torch.randint(27, (256, 3)), torch.randint(27, (256,)))
    return {verdict.about: verdict for verdict in judge_initialization(snapshot, arguments=arguments_of(model))}


@pytest.fixture(scope="module")
def data():
    return NGramDataModule("sample")


def with_data(data, updates=20_000, lr=0.1, kind=torch.optim.SGD, **options):
    model = made(vocabulary=data.vocabulary, optimizer=lambda parameters: kind(parameters, lr=lr), **options)
    return {verdict.about: verdict for verdict in judge_model(model, data, updates)}


@pytest.mark.parametrize("n_layers", [1, 5])
@pytest.mark.parametrize("kind", ["none", "batch", "layer"])
def test_principled_initializations_are_ok(kind, n_layers):
    norm = {"model": BatchNormMLP} if kind == "batch" else {"norm": Normalization(kind)}
    verdicts = judged(**norm, n_layers=n_layers, n_hidden=100)
    assert {v.level for v in verdicts.values()} == {"ok"}, verdicts


@pytest.mark.parametrize(
    ("options", "about", "cause", "changes"),
    [
        (
            {"initialization": {"output_weight": "normal"}},
            "first loss",
            "confidently wrong",
            {"initialization.output_weight": "normal * 0.01", "initialization.output_bias": "constant * 0"},
        ),
        ({"initialization": {"hidden_weight": "normal * 2"}}, "saturation", "too large", KAIMING),
        ({"initialization": {"hidden_bias": "constant * 30"}}, "dead units", "no gradient", KAIMING),
        (
            {"initialization": {"hidden_weight": "normal * 0.02"}, "n_layers": 5},
            "gradient over depth",
            "vanish",
            LAYER_NORM,
        ),
        (
            {"initialization": {"hidden_weight": "normal * 0.5"}, "n_layers": 5, "activation": "ReLU"},
            "gradient over depth",
            "explode",
            LAYER_NORM,
        ),
    ],
)
def test_each_mistake_is_called_bad_and_its_remedy_mends_it(options, about, cause, changes):
    verdict = judged(**options)[about]
    assert verdict.level == "bad"
    assert cause in verdict.finding
    assert verdict.changes == changes
    for name, value in changes.items():
        assert f"{name}: {value}" in verdict.remedy
    mended = {name.split(".")[1]: value for name, value in changes.items()}
    if changes == LAYER_NORM:
        assert judged(**options, norm=mended)[about].level == "ok"
    else:
        assert judged(**options | {"initialization": options["initialization"] | mended})[about].level == "ok"


@pytest.mark.parametrize(
    ("norm", "about", "changes"),
    [
        ({"gain": 30.0}, "saturation", {"gain": 1.0}),
        ({"on_logits": True, "logits_gain": 20.0}, "first loss", {"logits_gain": 0.1}),
    ],
)
@pytest.mark.parametrize("kind", ["batch", "layer"])
def test_what_a_norms_own_gain_does_is_mended_there(kind, norm, about, changes):
    argument, model = ("batch_norm", BatchNormMLP) if kind == "batch" else ("norm", MLP)
    verdict = judged(model, **{argument: norm | {"kind": kind}})[about]
    assert (verdict.level, verdict.changes) == ("bad", {f"{argument}.{name}": value for name, value in changes.items()})
    assert judged(model, **{argument: norm | {"kind": kind} | changes})[about].level == "ok"


def test_a_remedy_is_not_what_the_network_has_already():
    odd_bias = {"hidden_weight": KAIMING["initialization.hidden_weight"], "hidden_bias": "constant * 30"}
    assert "hidden_bias: auto" in judged(initialization=odd_bias)["dead units"].remedy
    vanishing = judged(n_layers=5, norm=Normalization("layer"), initialization={"hidden_weight": "constant * 0"})
    verdict = vanishing["gradient over depth"]
    assert verdict.level == "bad"
    assert "norm.kind" not in verdict.remedy  # it is normalized
    assert verdict.changes == KAIMING


def test_to_a_variant_of_ones_own_a_remedy_is_told_in_words():
    model = made(initialization={"output_weight": "normal * 3"})
    snapshot = take_snapshot(model.network, torch.randint(27, (64, 3)), torch.randint(27, (64,)))
    first_loss = judge_initialization(snapshot, arguments={"width": 64})[0]
    assert (first_loss.remedy, first_loss.changes) == ("start the output layer small", {})


def test_half_a_relu_is_no_saturation():
    assert judged(activation="ReLU")["saturation"].level == "ok"


def test_a_loss_that_is_not_finite_is_bad():
    verdicts = judged(initialization={"output_weight": "normal * 1e38", "hidden_weight": "normal * 10"})
    assert verdicts["first loss"].level == "bad"
    text = json.dumps(as_json(list(verdicts.values())), allow_nan=False)
    assert json.loads(text)["verdict"] == "bad"


@pytest.mark.parametrize(
    ("kind", "lr", "level", "words"),
    [
        (torch.optim.SGD, 0.1, "ok", ""),
        (torch.optim.SGD, 1e-4, "bad", "raise it"),
        (torch.optim.SGD, 20, "bad", "lower it"),
        (torch.optim.AdamW, 2e-3, "ok", ""),
        (torch.optim.AdamW, 1e-6, "bad", "raise it"),
        (torch.optim.AdamW, 0.5, "bad", "lower it"),
    ],
)
def test_a_trial_finds_the_learning_rate_too_high_or_too_low_and_names_one_that_is_not(data, kind, lr, level, words):
    verdict = with_data(data, lr=lr, kind=kind)["learning rate"]
    assert verdict.level == level, verdict
    assert words in verdict.remedy
    if level == "bad":
        better = with_data(data, lr=float(verdict.changes["optimizer.lr"]), kind=kind)
        assert better["learning rate"].level == "ok"


def test_a_trial_takes_everything_back(data):
    model = made(BatchNormMLP, vocabulary=data.vocabulary, n_layers=2, n_hidden=20).train()
    batches = [tuple(torch.randint(27, shape) for shape in ((32, 3), (32,))) for _ in range(5)]
    model.network(batches[0][0]).sum().backward()
    state = {name: x.clone() for name, x in model.network.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    random = torch.get_rng_state()
    optimizer = model.configure_optimizers()["optimizer"]
    trial = try_updates(model.network, optimizer, batches)
    assert len(trial.losses) == 5
    assert all(x.equal(state[name]) for name, x in model.network.state_dict().items())
    assert all(p.grad.equal(g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.get_rng_state().equal(random)


def test_a_trial_measures_what_the_optimizer_does_to_all_weights():
    model = made(n_hidden=20, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5))
    batch = torch.randint(27, (32, 3)), torch.randint(27, (32,))
    trial = try_updates(model.network, model.configure_optimizers()["optimizer"], [batch])
    loss = torch.nn.functional.cross_entropy(model.network(batch[0]), batch[1])
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
    weight = torch.cat([parameter.detach().flatten() for parameter in weights])
    assert trial.ratio == pytest.approx(math.log10(0.5 * gradient.norm() / weight.norm()), rel=1e-4)
    clipped = try_updates(model.network, model.configure_optimizers()["optimizer"], [batch], clipping(1e-4, None))
    assert clipped.ratio < trial.ratio - 1


def test_a_run_that_sees_too_little_and_one_that_overfits_are_found(data):
    few = with_data(data, updates=100)["examples seen"]
    assert (few.level, few.value) == ("warning", pytest.approx(3200 / len(data.splits["train"])))
    assert with_data(data, updates=20_000)["examples seen"].level == "ok"
    snapshot = take_snapshot(made().network, torch.randint(27, (64, 3)), torch.randint(27, (64,)))
    for validates, level in ((True, "bad"), (False, "ok")):  # where nobody asks for more than the training words
        budget = Budget(updates=20_000, batch_size=32, examples=500, parameters=12_000, validates=validates)
        verdict = judge_initialization(snapshot, budget=budget)[-1]
        assert (verdict.about, verdict.level) == ("examples seen", level)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"updates": 100, "batch_size": 32, "examples": 18_300}, {"max_steps": 580, "batch_size": 256}),
        (
            {"updates": 100, "batch_size": 32, "examples": 18_300, "accumulated": 4},
            {"max_steps": 150, "batch_size": 64},
        ),
        ({"updates": 10, "batch_size": 32, "examples": 182_630}, {"max_steps": 5_800}),
        ({"updates": 90_000, "batch_size": 32, "examples": 500, "parameters": 12_000}, {"max_steps": 320}),
        ({"updates": 800, "batch_size": 32, "examples": 1_726, "parameters": 12_097}, {"max_steps": 770}),
        (
            {"updates": 9_000, "batch_size": 8, "examples": 40, "parameters": 12_000, "accumulated": 2},
            {"max_steps": 50},
        ),
    ],
)
def test_a_remedy_for_the_examples_seen_is_a_number_that_the_command_takes(options, changes):
    snapshot = take_snapshot(made().network, torch.randint(27, (64, 3)), torch.randint(27, (64,)))
    verdict = judge_initialization(snapshot, budget=Budget(**{"parameters": 100} | options))[-1]
    assert verdict.level != "ok"
    for name, value in changes.items():
        assert f"{name}: {value}" in verdict.remedy
    assert ("batch_size" in verdict.remedy) == ("batch_size" in changes)


def test_the_rate_of_a_cycle_is_mended_where_it_stands(data):
    def cycle(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-5, total_steps=100)

    verdict = with_data(data, lr=0.1, lr_scheduler=cycle)["learning rate"]
    assert verdict.level == "bad"
    assert [*verdict.changes] == ["lr_scheduler.max_lr"]


def test_a_rate_that_its_schedule_sets_is_mended_in_words(data):
    def cycle(optimizer):
        return torch.optim.lr_scheduler.CyclicLR(optimizer, base_lr=20, max_lr=40, cycle_momentum=False)

    for lr in (0.1, 0.01):
        verdict = with_data(data, lr=lr, lr_scheduler=cycle)["learning rate"]
        assert (verdict.level, verdict.remedy, [*verdict.changes]) == ("bad", "lower it", [])


def test_a_rate_to_be_lowered_is_given_a_lower_number(data):
    """Although the first update is small against the weights, of which the embedding's are huge."""
    initialization = {
        "embedding": "normal * 100",
        "hidden_weight": "normal * 0.001",
        "output_weight": "normal * 0.01",
    }
    options = {"n_hidden": 30, "activation": "ReLU", "initialization": initialization}
    verdict = with_data(data, lr=1.0, **options)["learning rate"]
    assert verdict.level == "bad"
    assert verdict.remedy.startswith("lower it")
    assert float(verdict.changes["optimizer.lr"]) < 1


def test_a_run_of_one_update_is_not_told_to_stop_before():
    snapshot = take_snapshot(made().network, torch.randint(27, (64, 3)), torch.randint(27, (64,)))
    budget = Budget(updates=1, batch_size=64, examples=16, parameters=12_000)
    verdict = judge_initialization(snapshot, budget=budget)[-1]
    assert verdict.level != "ok"
    assert verdict.remedy == "add data"


def test_weights_that_are_all_zero_are_named_and_not_their_learning_rate(data):
    zero = dict.fromkeys(("embedding", "hidden_weight", "output_weight"), "constant * 0")
    verdicts = with_data(data, initialization=zero)
    assert verdicts["weights"].level == "bad"
    assert "normal * gain / sqrt(fan_in)" in verdicts["weights"].remedy
    assert "learning rate" not in verdicts


def test_examples_are_spread_over_the_split(data):
    contexts, targets = evenly_spaced(data.splits["train"], 50)
    assert len(contexts) == len(targets) == 50
    assert contexts[-1].equal(data.splits["train"].contexts[-1].long())
    assert len(evenly_spaced(data.splits["val"], 10**9)[0]) == len(data.splits["val"])


def test_counting_is_what_it_is_word_by_word(data):
    train, val = data.splits["train"], data.splits["val"]
    found = counted_losses(train, val, len(data.vocabulary))
    for length, name in enumerate(("unigrams", "bigrams", "trigrams")):
        own = [tuple(c[3 - length :]) for c in train.contexts.tolist()]
        pairs, singles = Counter(zip(own, train.targets.tolist(), strict=True)), Counter(own)
        others = zip([tuple(c[3 - length :]) for c in val.contexts.tolist()], val.targets.tolist(), strict=True)
        losses = [-math.log((pairs[context, t] + 1) / (singles[context] + 27)) for context, t in others]
        assert found[name] == pytest.approx(np.mean(losses), rel=1e-5)
    short = NGramDataModule("sample", block_size=1)
    names = ["unigrams", "bigrams", "1-grams (Kneser-Ney)", "2-grams (Kneser-Ney)"]
    assert [*counted_losses(short.splits["train"], short.splits["val"], 27)] == names


class Smoothed(KneserNey):
    """That of NLTK, whose single tokens give nothing to those that were never seen."""

    def unigram_score(self, word):
        seen, total = self._continuation_counts(word) if self._order > 1 else (self.counts[word], self.counts[1].N())
        known = len(self.vocab) - 1  # of which one is NLTK's own, for unknown words
        return max(seen - self.discount, 0) / total + self.discount * len(self.counts[1]) / total / known


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_kneser_ney_is_that_of_nltk(order):
    """On 300 words, so that many contexts of the validation split were never seen."""
    data = NGramDataModule("sample", block_size=4)
    data.corpus = replace(data.corpus, words=data.corpus.words[:300])
    train, val = data.splits["train"], data.splits["val"]

    def written(ngrams, length):
        rows = zip(ngrams.contexts.tolist(), ngrams.targets.tolist(), strict=True)
        return [tuple(data.vocabulary[i] for i in [*context, target][-length:]) for context, target in rows]

    params = {"discount": 0.75, "order": order}
    model = InterpolatedLanguageModel(Smoothed, order, params=params, vocabulary=Vocabulary(data.vocabulary))
    model.fit([written(train, length) for length in range(1, order + 1)])
    expected = [model.score(ngram[-1], ngram[:-1]) for ngram in written(val, order)]
    found = CountedNGrams(train, len(data.vocabulary)).kneser_ney(val)[order - 1]
    assert found == pytest.approx(expected, rel=1e-9)


def test_probabilities_of_counted_models_add_up_to_one():
    data = NGramDataModule("sample", block_size=3)
    counted, size = CountedNGrams(data.splits["train"], 27), 27
    contexts = data.splits["val"].contexts[:20]
    every = NGrams(contexts.repeat_interleave(size, 0), torch.arange(size).repeat(len(contexts)))
    for probabilities in [*counted.kneser_ney(every), *counted.add_one(every, 3)]:
        assert probabilities.reshape(-1, size).sum(1) == pytest.approx(1)


COUNTED = {"guessing": 3.3, "unigrams": 2.8, "bigrams": 2.45, "trigrams": 2.24, "4-grams (Kneser-Ney)": 2.06}


@pytest.mark.parametrize(
    ("val", "level", "finding"),
    [
        (2.05, "ok", "better than counting 4-grams (Kneser-Ney) (2.060)"),
        (2.2, "ok", "better than counting trigrams (2.240), worse than counting 4-grams (Kneser-Ney) (2.060)"),
        (2.22, "warning", "worse than counting 4-grams (Kneser-Ney) (2.060): the network has learned little"),
        (2.82, "bad", "learned nothing"),
        (145.0, "bad", "worse than guessing"),
        (math.nan, "bad", "worse than guessing"),
    ],
)
def test_the_outcome_is_judged_against_counting(val, level, finding):
    verdict = judge_training(torch.full((1000,), val), {"train": val, "val": val}, COUNTED)[0]
    assert (verdict.about, verdict.level) == ("outcome", level)
    assert finding in verdict.finding


def test_a_curve_that_still_falls_is_told_from_noise():
    noise = 0.25 * torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    flat, falling = 2.1 + noise, 2.1 + noise - torch.linspace(0, 1, 20_000)
    levels = [judge_training(losses, {"train": 2.1}, COUNTED)[1].level for losses in (flat, falling)]
    assert levels == ["ok", "bad"]
    assert judge_training(falling, {"train": 2.1}, COUNTED)[1].value == pytest.approx(0.2, abs=0.02)


def test_a_slope_comes_with_its_error_and_may_be_too_noisy_to_tell():
    noise = torch.randn(1_000, generator=torch.Generator().manual_seed(1))
    finding = judge_training(2.1 + 300 * noise, {"train": 2.1}, COUNTED)[1].finding
    assert re.fullmatch(r"changed by [-+][\d.]+ ± [\d.]+ over the last fifth, too noisy to tell", finding)
    finding = judge_training(2.1 + 1e-3 * noise, {"train": 2.1}, COUNTED)[1].finding
    assert re.fullmatch(r"changed by [-+]0\.00\d ± 0\.00\d over the last fifth", finding)


def test_a_run_whose_loss_has_grown_is_told_that_alone():
    (verdict,) = judge_training(torch.linspace(3.6, 40, 1000), {"train": 41.2, "val": 60.0}, COUNTED, [(900, -7.0)])
    assert verdict.level == "bad"
    assert verdict.finding == "diverged: train 41.2, and 3.6 at update 0"
    assert verdict.remedy == "lower the learning rate"


@pytest.mark.parametrize(("gamma", "judged"), [("1.0", True), ("1e-3", False)])
def test_a_rate_that_its_schedule_lets_end_is_no_fault_of_the_weights(gamma, judged, run_train):
    schedule = f"--model.lr_scheduler={{class_path: StepLR, init_args: {{step_size: 20, gamma: {gamma}}}}}"
    folder, _ = run_train("--trainer.max_steps", "100", "--observe.every_n_updates", "10/100/0", schedule)
    verdicts = json.loads((folder / "verdicts.json").read_text())["findings"]
    assert ("update:data ratio" in {verdict["about"] for verdict in verdicts}) == judged


def test_a_run_is_not_told_to_train_longer_and_to_stop_earlier():
    verdicts = judge_training(torch.full((1000,), 2.1), {"train": 1.0, "val": 3.0}, COUNTED)
    remedies = [verdict.remedy for verdict in verdicts if verdict.remedy]
    assert any("stop earlier" in remedy for remedy in remedies)
    assert not any("train longer" in remedy for remedy in remedies)


def test_a_training_is_judged_by_its_gap_its_second_half_and_what_it_leaves():
    losses, model = torch.full((1000,), 2.1), made(initialization={"hidden_bias": "constant * 30"})
    snapshot = take_snapshot(model.network.eval(), torch.randint(27, (64, 3)), torch.randint(27, (64,)))
    ratios = [(0, -0.5), (400, -0.5), (500, -6.0), (999, -6.2)]
    verdicts = judge_training(losses, {"train": 1.1, "val": 4.0}, COUNTED, ratios, snapshot)
    found = {verdict.about: verdict for verdict in verdicts}
    assert "overfits" in found["train-validation gap"].finding
    assert (found["update:data ratio"].value, found["update:data ratio"].level) == (-6.0, "bad")
    assert found["dead units"].level == found["saturation"].level == "bad"
    healthy = judge_training(losses, {"train": 2.07, "val": 2.1}, COUNTED, [(0, -0.5), (999, -2.5)])
    assert worst(healthy) == "ok"


def test_records_hold_what_was_found():
    verdicts = [Verdict("a", "warning", math.inf, "found", "do", {"x": 1}), Verdict("b", "ok", 1.5, "fine")]
    assert as_json(verdicts) == {
        "verdict": "warning",
        "findings": [
            {"about": "a", "level": "warning", "value": None, "finding": "found", "remedy": "do", "changes": {"x": 1}},
            {"about": "b", "level": "ok", "value": 1.5, "finding": "fine", "remedy": "", "changes": {}},
        ],
    }
    assert as_markdown(verdicts).splitlines()[2] == "| a | **warning** | found | do |"
    assert worst([]) == "ok"


@pytest.mark.parametrize(
    ("config", "bad"),
    [
        ("experiments/004_plain", {"first loss"}),
        ("experiments/004_hidden_scaled", set()),
        ("experiments/002_running_batch_norm", set()),
        ("debug/overfit", set()),  # which is to overfit
    ],
)
def test_check_tells_networks_apart_without_training(config, bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ["--config", str(PROJECT / "configs" / f"{config}.yaml"), "--output", "out.json"]
    words = PROJECT / "data" / "few_words.txt"
    args += ["--data.corpus", str(words) if "debug" in config else "sample"]
    if bad:
        with pytest.raises(SystemExit, match="1"):
            check.main(DEFAULT, args)
    else:
        check.main(DEFAULT, args)
    record = json.loads((tmp_path / "out.json").read_text())
    assert {f["about"] for f in record["findings"] if f["level"] == "bad"} == bad
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]  # no run


def test_check_judges_as_a_run_does(run_train, corpus_file):
    options = ("--trainer.max_steps", "1", "--seed_everything", "5", "--trainer.gradient_clip_val", "0.1")
    folder, _ = run_train(*options, "--observe.every_n_updates", "0/0/0")
    check.main(DEFAULT, ["--data.corpus", str(corpus_file), *options, "--output", "check.json"])
    checked = json.loads((corpus_file.parent / "check.json").read_text())
    assert checked == json.loads((folder / "preflight.json").read_text())


def test_check_counts_the_epochs_of_a_run_without_an_end(capsys):
    for end in ("--trainer.max_steps=-1", "--trainer.max_epochs=1000"):
        check.main(DEFAULT, ["--data.corpus", "sample", "--trainer.max_steps", "-1", end])
        assert "999." in capsys.readouterr().out


def test_what_a_run_sees_of_a_split_is_not_judged_where_it_overfits_a_minibatch(run_train, corpus_file):
    options = ("--trainer.overfit_batches", "1", "--trainer.max_steps", "9")
    folder, _ = run_train(*options, "--observe.every_n_updates", "0/0/0")
    check.main(DEFAULT, ["--data.corpus", str(corpus_file), *options, "--output", "check.json"])
    for path in (folder / "preflight.json", corpus_file.parent / "check.json"):
        assert "examples seen" not in path.read_text()


def test_check_does_not_ignore_a_checkpoint(run_train, fails):
    folder, _ = run_train("--trainer.max_steps", "1")
    assert "remove these options" in fails(check.main, DEFAULT, ["--resume", str(folder)])
