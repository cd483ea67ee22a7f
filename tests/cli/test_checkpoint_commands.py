import json
import os
import re

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ngram_mlp.cli import evaluate, sample
from ngram_mlp.models import MLP, LanguageModel
from ngram_mlp.models.loading import load_model
from ngram_mlp.models.sampling import sample_batched, sample_one_by_one
from runlab import read_checkpoint


@pytest.fixture
def checkpoint(run_train):
    folder, _ = run_train("--trainer.max_steps", "300")
    return folder / "checkpoints" / "last.ckpt"


def test_evaluate_prints_the_table_of_the_run(checkpoint, capsys):
    metrics = json.loads((checkpoint.parents[1] / "metrics.json").read_text())
    evaluate.main(["--ckpt_path", str(checkpoint.parents[1])])  # the folder of the run
    out = capsys.readouterr().out
    for split in ("train", "val", "test"):
        assert f"{metrics[split]['loss']:.4f}" in out


def test_sampling_needs_the_checkpoint_alone_and_follows_the_notebook(checkpoint, corpus_file, capsys):
    os.unlink(corpus_file)
    sample.main(["--ckpt_path", str(checkpoint), "--num", "5", "--seed", "11", "--temperature", "0.8"])
    model = load_model(read_checkpoint(checkpoint), LanguageModel)
    g = torch.Generator().manual_seed(11)
    expected = []
    for _ in range(5):
        out, context = [], [0] * 3
        while True:
            probs = torch.softmax(model(torch.tensor([context])) / 0.8, dim=1)
            ix = torch.multinomial(probs, num_samples=1, generator=g).item()
            context = [*context[1:], ix]
            if ix == 0:
                break
            out.append(model.vocabulary[ix])
        expected.append("".join(out))
    assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize("sampler", [sample_one_by_one, sample_batched])
def test_words_begin_with_the_prompt(sampler, checkpoint):
    model = load_model(read_checkpoint(checkpoint), LanguageModel)
    words = [word for word, _ in sampler(model, 50, torch.Generator().manual_seed(1), prompt="marie")]
    assert len(words) == 50
    assert all(word.startswith("marie") for word in words)


def test_both_ways_of_sampling_draw_from_one_distribution(checkpoint):
    model = load_model(read_checkpoint(checkpoint), LanguageModel)
    mean_length = []
    for sampler in (sample_one_by_one, sample_batched):
        words = [word for word, _ in sampler(model, 2_000, torch.Generator().manual_seed(2))]
        mean_length.append(sum(map(len, words)) / len(words))
    assert mean_length[0] == pytest.approx(mean_length[1], rel=0.06)  # about four standard errors


@pytest.mark.parametrize("sampler", [sample_one_by_one, sample_batched])
def test_a_model_that_never_ends_a_word_is_cut_and_tells(sampler, checkpoint):
    model = load_model(read_checkpoint(checkpoint), LanguageModel)
    with torch.no_grad():
        model.network.output.linear.bias[0] = -1e9
    words = list(sampler(model, 3, torch.Generator(), max_length=17))
    assert [(len(word), ended) for word, ended in words] == [(17, False)] * 3


def test_a_cut_is_reported(checkpoint, capsys):
    sample.main(["--ckpt_path", str(checkpoint), "--num", "40", "--max_length", "2", "--model", "BatchNormMLP"])
    captured = capsys.readouterr()
    assert "were cut off after 2 tokens" in captured.err
    assert max(map(len, captured.out.splitlines())) == 2


def test_all_statistics_in_one_table_with_the_drift_of_the_running_estimates(run_train, capsys):
    folder, _ = run_train("--trainer.max_steps", "30", "--model.n_layers", "2")
    evaluate.main(["--ckpt_path", str(folder / "checkpoints" / "last.ckpt"), "--statistics", "all"])
    out = capsys.readouterr().out
    rows = re.findall(r"│ (running|batch|calibrated) +│ (train|val|test) +│ (\d\.\d{4})", out)
    assert [(name, split) for name, split, _ in rows] == [
        (name, split) for name in ("running", "batch", "calibrated") for split in ("train", "val", "test")
    ]
    losses = {row[:2]: float(row[2]) for row in rows}
    assert losses["batch", "train"] == losses["calibrated", "train"] != losses["running", "train"]
    assert losses["batch", "val"] != losses["calibrated", "val"]
    assert len(re.findall(r"│ hidden[12]\.norm │ +\d\.\d{4} │ +[\d.]+%", out)) == 2


def test_a_run_validates_with_the_statistics_that_it_is_told(run_train, capsys):
    """After few updates the running estimates lag far behind, so that the losses tell which were used."""
    args = ("--trainer.max_steps", "40", "--trainer.val_check_interval", "20")
    weights = {}
    for statistics in ("running", "batch", "calibrated"):
        folder, _ = run_train(*args, "--statistics", statistics)
        checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        weights[statistics] = checkpoint["state_dict"]
        reported = json.loads((folder / "metrics.json").read_text())
        events = EventAccumulator(str(folder)).Reload()
        assert [event.step for event in events.Scalars("val/loss")] == [19, 39]
        assert events.Scalars("val/loss")[-1].value == pytest.approx(reported["val"]["loss"], rel=1e-5)
        evaluate.main(["--ckpt_path", str(folder / "checkpoints" / "last.ckpt"), "--statistics", statistics])
        assert f"{reported['val']['loss']:.4f}" in capsys.readouterr().out
    for name, value in weights["running"].items():
        assert value.equal(weights["batch"][name]), name
        assert value.equal(weights["calibrated"][name]), name


def test_statistics_of_a_model_without_batch_norm_are_refused(run_train, fails):
    folder, _ = run_train("--trainer.max_steps", "1", "--model", "MLP")
    args = ["--ckpt_path", str(folder / "checkpoints" / "last.ckpt"), "--statistics", "calibrated"]
    assert "no batch norm" in fails(evaluate.main, args)
    assert "--statistics calibrated: --mix uses the running statistics" in fails(evaluate.main, [*args, "--mix", "0.5"])
    assert "no batch norm" in fails(run_train, "--model", "MLP", "--statistics", "batch")


def test_a_text_is_sampled_however_low_the_temperature():
    model = MLP(["", "a", "b"], 2)  # a text's vocabulary
    with torch.no_grad():
        model.network.output.linear.bias.copy_(torch.tensor([50.0, 0.0, 1.0]))
    ((text, _),) = sample_one_by_one(model.eval(), 1, torch.Generator(), temperature=1e-3, max_length=5)
    assert len(text) == 5


def test_so_is_a_name():
    model = MLP(".ab", 2)
    with torch.no_grad():
        model.network.output.linear.bias.copy_(torch.tensor([0.0, 50.0, 1.0]))
    ((name, _),) = sample_one_by_one(model.eval(), 1, torch.Generator(), temperature=1e-40, max_length=5)
    assert name == "aaaaa"


def test_a_prompt_is_composed_as_a_corpus_is():
    model = MLP(".a\u00e9", 2).eval()
    ((word, _),) = sample_one_by_one(model, 1, torch.Generator(), prompt="ae\u0301", max_length=3)
    assert word.startswith("a\u00e9")
