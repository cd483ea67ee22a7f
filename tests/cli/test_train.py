import json
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning import Trainer

from ngram_mlp.callbacks import progress
from ngram_mlp.cli import evaluate, sample, train
from ngram_mlp.data import load_corpus
from tests.cli.folders import scalars, weights
from tests.conftest import PROJECT
from tests.reference.notebook import Notebook, dataset

SHORT = ("--trainer.max_steps", "1234", "--trainer.val_check_interval", "500", "--trainer.log_every_n_steps", "100")
EAGER = (*SHORT, "--engine", "eager")  # which `auto` takes, but on a busy machine


def test_a_run_leaves_what_the_design_says(run_train, corpus_file):
    folder, out = run_train(*SHORT)
    assert folder.parent.name == "default"
    assert folder.name == "version_0"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["updates"] == 1234
    assert metrics["corpus"] == load_corpus(str(corpus_file)).summary()
    for split in ("train", "val", "test"):
        assert metrics[split]["perplexity"] == pytest.approx(np.exp(metrics[split]["loss"]), rel=1e-5)
        assert f"{metrics[split]['loss']:.4f}" in out
    losses = np.load(folder / "losses.npy")
    assert losses.dtype == np.float32
    assert losses.shape == (1234,)
    samples = (folder / "samples.txt").read_text().split("\n")[:-1]
    assert len(samples) == 10
    assert ", ".join(samples) in out
    assert f"--logdir {folder.relative_to(os.getcwd())}" in out
    assert sorted(os.listdir(folder / "checkpoints"))[-1] == "last.ckpt"


def test_everything_that_is_logged_is_on_lightnings_axis_of_updates(run_train):
    """The update that is the thousandth has the number 999 there."""
    folder, _ = run_train(*SHORT)
    losses = np.load(folder / "losses.npy")
    logged = scalars(folder)
    assert [step for step, _ in logged["train/loss"]] == [*range(99, 1200, 100), 1233]
    assert all(value == losses[step] for step, value in logged["train/loss"])
    for tag in ("val/loss", "val/perplexity", "val/accuracy"):
        assert [step for step, _ in logged[tag]] == [499, 999, 1233]
    assert logged["val/loss"][-1][1] == pytest.approx(json.loads((folder / "metrics.json").read_text())["val"]["loss"])
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1234
    best = min(logged["val/loss"], key=lambda event: event[1])[0] + 1
    assert os.listdir(folder / "checkpoints") in (
        ["last.ckpt", f"best-{best}.ckpt"],
        [f"best-{best}.ckpt", "last.ckpt"],
    )


def test_the_learning_rate_changes_at_the_update_that_the_schedule_names(run_train):
    folder, _ = run_train(*SHORT, "--model.lr_scheduler.milestones", "[700]")
    rates = dict(scalars(folder)["lr-SGD"])
    assert rates[699] == pytest.approx(0.1)
    assert rates[799] == pytest.approx(0.01)


@pytest.mark.slow
def test_without_a_schedule_the_rate_stays_and_a_resumed_run_keeps_it(run_train):
    folder, _ = run_train(*SHORT, "--model.lr_scheduler", "null")
    run_train("--resume", str(folder), "--trainer.max_steps", "1500")
    rates = dict(scalars(folder)["lr-SGD"])
    assert rates == dict.fromkeys(range(99, 1500, 100), pytest.approx(0.1))


@pytest.mark.slow
def test_the_best_checkpoint_has_a_row_where_it_is_not_the_last_also_of_a_resumed_run(run_train):
    folder, _ = run_train(*SHORT, "--model.optimizer.lr", "0.5", "--observe.every_n_updates", "off")
    (best,) = (int(path.stem.removeprefix("best-")) for path in folder.glob("checkpoints/best-*.ckpt"))
    losses = dict(scalars(folder)["val/loss"])
    _, out = run_train("--resume", str(folder), "--trainer.max_steps", "1300", "--model.optimizer.lr", "50")
    assert re.search(rf"val at update {best:,}, the best │ +{losses[best - 1]:.4f} │", out)


def test_a_run_is_named_by_what_is_changed_and_the_last_one_is_found(run_train, tmp_path):
    plain, _ = run_train("--trainer.max_steps", "5")
    named, _ = run_train("--trainer.max_steps", "5", "--model.optimizer.lr=0.3", "--model.n_hidden", "9")
    assert plain == tmp_path / "runs/default/version_0"
    assert named == tmp_path / "runs/default/lr=0.3 n_hidden=9/version_0"
    assert run_train("--ckpt_path", "last", "--trainer.max_steps", "6")[0] == named
    assert run_train("--config", str(named / "config.yaml"), "--name", "own")[0] == tmp_path / "runs/own/version_0"


@pytest.mark.slow
def test_a_run_says_every_10000_updates_how_it_stands(run_train):
    small = (
        "--model",
        "MLP",
        "--data.batch_size",
        "2",
        "--model.n_hidden",
        "4",
        "--trainer.val_check_interval",
        "5000",
    )
    folder, out = run_train("--trainer.max_steps", "10001", *small)
    losses = np.load(folder / "losses.npy")
    (line,) = re.findall(r"^10,000/10,001 .*$", out, flags=re.MULTILINE)
    (_, train, val, speed, left) = re.split(r"   +", line)
    assert train == f"train {losses[:10_000].mean():.4f}"
    assert val == f"val {dict(scalars(folder)['val/loss'])[9_999]:.4f}"
    assert speed.endswith("updates/s")
    assert left == "0:00:00 left"


def test_a_slow_run_shows_that_it_lives(run_train, monkeypatch):
    monkeypatch.setattr(progress, "LONGEST_SILENCE", 0)
    _, out = run_train("--trainer.max_steps", "30", "--trainer.val_check_interval", "10")
    assert {line.split("/")[0] for line in out.splitlines() if "updates/s" in line} >= {"10", "20", "30"}


def test_the_help_is_short_and_says_where_the_rest_is(capsys):
    shown = {}
    for option in ("--help", "--help.trainer", "--model.help"):
        with pytest.raises(SystemExit, match="0"):
            train.main(PROJECT / "configs" / "default.yaml", [option])
        shown[option] = capsys.readouterr().out
    lines = [line for line in shown["--help"].splitlines() if " tests." not in line]  # classes that tests define
    assert len(lines) <= 120
    assert "--trainer.gradient_clip_val" not in shown["--help"]
    assert "--trainer.gradient_clip_val" in shown["--help.trainer"]
    assert "--model.batch_norm.momentum" in shown["--model.help"]
    assert not any("<function" in text for text in shown.values())


def test_the_saved_configuration_repeats_the_run(run_train):
    first, _ = run_train(*EAGER, "--model", "MLP", "--model.n_hidden", "30", "--seed_everything", "5")
    again, _ = run_train("--config", str(first / "config.yaml"))
    assert (first / "losses.npy").read_bytes() == (again / "losses.npy").read_bytes()
    assert (first / "samples.txt").read_bytes() == (again / "samples.txt").read_bytes()


def test_a_run_needs_no_arguments(run_train, tmp_path):
    first, _ = run_train("--trainer.max_steps", "30")
    train.main(first / "config.yaml", [])
    assert (tmp_path / "runs/default/version_1/losses.npy").read_bytes() == (first / "losses.npy").read_bytes()


def test_a_mistake_in_the_configuration_of_a_run_without_arguments_is_one_line(run_train, fails):
    first, _ = run_train("--trainer.max_steps", "3")
    wrong = (first / "config.yaml").read_text().replace("n_hidden: 200", "n_hidden: many")
    (first / "config.yaml").write_text(wrong)
    assert "n_hidden" in fails(train.main, first / "config.yaml", [])


def test_an_override_holds_on_either_side_of_a_configuration(run_train, tmp_path):
    (tmp_path / "a.yaml").write_text("model: {init_args: {n_hidden: 40}}\ntrainer: {max_steps: 3}")
    (tmp_path / "b.yaml").write_text("model: {init_args: {n_embd: 4}}")
    for args in (("--model.n_hidden", "9", "--config", "a.yaml", "--config=b.yaml"), ("-c", "a.yaml", "-c", "b.yaml")):
        folder, _ = run_train(*args)
        hparams = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]
        assert hparams["n_hidden"] == (9 if "--model.n_hidden" in args else 40)
        assert hparams["n_embd"] == 4


def test_a_resumed_run_ends_with_the_same_bits(run_train):
    whole, _ = run_train(*EAGER)
    part, _ = run_train(*EAGER, "--trainer.max_steps", "700")
    rest, _ = run_train(*EAGER, "--ckpt_path", str(part / "checkpoints" / "last.ckpt"))
    for name in ("losses.npy", "samples.txt"):
        assert (whole / name).read_bytes() == (rest / name).read_bytes()
    expected, found = (weights(folder / "checkpoints" / "last.ckpt") for folder in (whole, rest))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.equal(found[name]), name


@pytest.mark.slow
def test_observing_changes_nothing(run_train):
    plain, _ = run_train(*EAGER)
    for extra in (
        ("--trainer.log_every_n_steps", "7"),
        ("--trainer.enable_progress_bar", "false", "--trainer.logger", "false"),
        ("--trainer.limit_val_batches", "0", "--trainer.enable_checkpointing", "false"),
    ):
        observed, _ = run_train(*EAGER, *extra)
        for name in ("losses.npy", "samples.txt"):
            assert (plain / name).read_bytes() == (observed / name).read_bytes(), extra


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_other_precisions_train(run_train, precision):
    folder, _ = run_train("--trainer.max_steps", "300", "--trainer.precision", precision)
    losses = np.load(folder / "losses.npy")
    assert losses[-50:].mean() < losses[:5].mean()


def test_no_updates_at_all_still_evaluates_the_initial_network(run_train):
    folder, _ = run_train("--trainer.max_steps", "0")
    assert json.loads((folder / "metrics.json").read_text())["train"]["loss"] > 2.5
    assert np.load(folder / "losses.npy").shape == (0,)


@pytest.mark.slow
def test_the_fused_engine_leaves_the_same_run_as_the_eager_one(run_train):
    eager, _ = run_train(*SHORT, "--engine", "eager")
    fused, out = run_train(*SHORT, "--engine", "fused")
    assert "engine  fused: compiled in" in out or "engine  fused: loaded compiled code" in out
    np.testing.assert_allclose(np.load(fused / "losses.npy"), np.load(eager / "losses.npy"), rtol=1e-5)
    expected, found = scalars(eager), scalars(fused)
    assert expected.keys() == found.keys()
    for tag, events in expected.items():
        assert [step for step, _ in events] == [step for step, _ in found[tag]]
    records = [json.loads((folder / "metrics.json").read_text()) for folder in (eager, fused)]
    assert [record["engine"] for record in records] == ["eager", "fused"]
    assert records[0]["val"]["loss"] == pytest.approx(records[1]["val"]["loss"], abs=1e-5)


def test_a_fused_run_resumes_with_the_same_bits_although_cut_elsewhere(run_train):
    fused = (*SHORT, "--engine", "fused")
    whole, _ = run_train(*fused)
    part, _ = run_train(*fused, "--trainer.max_steps", "701")
    rest, out = run_train(*SHORT, "--ckpt_path", str(part / "checkpoints" / "last.ckpt"))  # auto stays with fused
    assert "fused" in out
    assert (whole / "losses.npy").read_bytes() == (rest / "losses.npy").read_bytes()


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_command_replays_a_notebook_from_one_generator_names_included(run_train, corpus_file, norm):
    folder, _ = run_train(
        "--trainer.max_steps",
        "300",
        "--seed_everything",
        "77",
        "--model",
        {"none": "MLP", "batch": "BatchNormMLP"}[norm],
    )
    ((X, Y), _, _), vocab_size = dataset(corpus_file.read_text().split())
    notebook = Notebook(77, vocab_size, norm == "batch")
    np.testing.assert_allclose(np.load(folder / "losses.npy"), notebook.train(X, Y, 300), rtol=1e-5)
    characters = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]["vocabulary"]
    names = ["".join(characters[i] for i in notebook.sample()) for _ in range(10)]
    assert (folder / "samples.txt").read_text().splitlines() == names


@pytest.mark.parametrize(
    ("saved_at", "engine"),
    [(600, "eager"), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1000, "eager"), (600, "fused")))],
    ids=["between validations", "at a validation", "between validations, fused"],
)
def test_a_checkpoint_from_the_middle_of_a_run_goes_on_to_the_same_bits(
    run_train, monkeypatch, tmp_path, saved_at, engine
):
    save = Trainer.save_checkpoint

    def save_and_keep(self, path, *args, **kwargs):
        save(self, path, *args, **kwargs)
        if self.global_step == saved_at:
            shutil.copyfile(path, tmp_path / "middle.ckpt")

    options = (*SHORT, "--checkpoint_every", "300", "--engine", engine)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_checkpoint", save_and_keep)
        whole, _ = run_train(*options)
    rest, _ = run_train(*options, "--ckpt_path", str(tmp_path / "middle.ckpt"))
    for name in ("losses.npy", "samples.txt"):
        assert (whole / name).read_bytes() == (rest / name).read_bytes()
    later = [event for event in scalars(whole)["val/loss"] if event[0] > saved_at]
    assert scalars(rest)["val/loss"] == later


@pytest.mark.parametrize(
    ("args", "model", "parameters"),
    [
        (["--model", "MLP"], "MLP", "11,897"),
        (["--model", "BatchNormMLP"], "BatchNormMLP", "12,097"),
        (["--config", "002_no_norm.yaml"], "MLP", "11,897"),
        (["--config", "002_no_norm.yaml", "--model", "BatchNormMLP"], "BatchNormMLP", "12,097"),
        (["--config", "002_running_batch_norm.yaml", "--model", "MLP"], "MLP", "11,897"),
        (["--model", "MLP", "--model.norm.kind", "layer", "--model", "BatchNormMLP"], "BatchNormMLP", "12,097"),
    ],
)
def test_the_model_is_chosen_by_name_in_either_direction(args, model, parameters, run_train):
    args = [str(PROJECT / "configs" / "experiments" / arg) if arg.endswith(".yaml") else arg for arg in args]
    folder, out = run_train(*args, "--trainer.max_steps", "1")
    assert f"model   {model}, {parameters} parameters" in out
    assert ("network.hidden1.norm.gain" in weights(folder / "checkpoints" / "last.ckpt")) == (model == "BatchNormMLP")


def test_averaged_weights_are_validated_with_statistics_of_their_own(run_train):
    """The last validation, with the average swapped in, is what evaluating the averaged network gives."""
    averaging = ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay", "0.9")
    folder, _ = run_train("--statistics", "calibrated", *averaging, "--trainer.max_steps", "40")
    ((_, validated),) = scalars(folder)["val/loss"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert validated == pytest.approx(metrics["val"]["loss"], rel=1e-6)
    plain, _ = run_train(*averaging, "--trainer.max_steps", "40")
    assert json.loads((plain / "metrics.json").read_text())["val"]["loss"] != metrics["val"]["loss"]


@pytest.mark.slow
def test_a_random_seed_is_written_down_so_that_the_run_can_be_repeated(run_train):
    first, _ = run_train(*EAGER, "--model", "MLP", "--seed_everything", "true")
    seed = yaml.safe_load((first / "config.yaml").read_text())["seed_everything"]
    assert type(seed) is int
    again, _ = run_train(*EAGER, "--model", "MLP", "--seed_everything", str(seed))
    assert (again / "losses.npy").read_bytes() == (first / "losses.npy").read_bytes()
    another, _ = run_train(*EAGER, "--model", "MLP", "--seed_everything", "true")
    assert (another / "losses.npy").read_bytes() != (first / "losses.npy").read_bytes()


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil"])
def test_a_run_stays_within_the_folder_of_all_runs(name, run_train, fails):
    assert f"--name {name}: give the name or relative path of a folder inside runs_dir" in fails(
        run_train, *EAGER, "--name", name
    )


def test_a_command_that_is_printed_works_when_it_is_copied(run_train):
    folder, out = run_train(*EAGER, "--name", "a run; of mine")
    (line,) = re.findall(r"^view    (.*)$", out, flags=re.MULTILINE)
    assert shlex.split(line)[-2:] == ["--logdir", str(folder.relative_to(Path.cwd()))]


@pytest.mark.slow
def test_a_text_is_trained_on_sampled_judged_and_resumed(run_train, tmp_path, capsys):
    text = "The n-gram was counted. Then it was learned, line by line,\nand the line did not end it.\n" * 40
    (tmp_path / "prose.txt").write_text(text)
    options = ("--data.corpus", "prose.txt", "--data.unit", "text", "--data.block_size", "8", "--trainer.max_steps")
    folder, out = run_train(*options, "300", "--observe.every_n_updates", "default")
    assert folder.parent.name == "unit=text block_size=8"
    assert f"prose.txt, a text of {len(text):,} characters, {len({*text}) + 1} distinct ones" in out
    sampled = (folder / "samples.txt").read_text()
    assert len(sampled) == 201
    assert "sampled\n" in out
    first = next(line for line in sampled.splitlines() if line.strip())
    assert first.strip() in out
    assert {*sampled} <= {*text}
    assert json.loads((folder / "verdicts.json").read_text())["verdict"] in ("ok", "warning", "bad")
    sample.main(["--ckpt_path", str(folder), "--prompt", "The ", "--max_length", "120"])
    captured = capsys.readouterr()
    assert captured.out.startswith("The ")
    assert len(captured.out) == 121
    assert captured.err == ""
    evaluate.main(["--ckpt_path", str(folder)])
    assert f"{json.loads((folder / 'metrics.json').read_text())['val']['loss']:.4f}" in capsys.readouterr().out
    assert run_train("--ckpt_path", "last", "--trainer.max_steps", "320")[0] == folder


@pytest.mark.parametrize("unit", [pytest.param("line", marks=pytest.mark.slow), "text"])
def test_words_are_trained_on_sampled_judged_evaluated_and_resumed(unit, run_train, tmp_path, capsys):
    verses = "In the beginning was the word.\nThe word was with him, and he knew -- not all of it!\nOnce: a rare one.\n"
    (tmp_path / "prose.txt").write_text(verses * 30 + "Once, rarely\n")
    (tmp_path / "other.txt").write_text("In the end was a sound.\n" * 30)
    options = ("--data.corpus", "prose.txt", "--data.unit", unit, "--data.tokens", "words", "--data.min_count", "2")
    network = ("--model", "MLP", "--model.direct", "true", "--trainer.max_steps")
    folder, out = run_train(*options, *network, "300", "--observe.every_n_updates", "default")
    assert folder.parent.name == f"unit={unit} tokens=words min_count=2 model=MLP direct=true"
    assert re.search(r"prose.txt, (91 lines|a text of \d,\d+ characters), \d\d tokens", out)
    assert "outcome" in out
    size = int(re.search(r"(\d\d) tokens", out)[1])
    assert yaml.safe_load((folder / "hparams.yaml").read_text())["model"]["vocabulary"] == size
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["val"]["perplexity_per_word"] == pytest.approx(metrics["val"]["perplexity"])
    known = {*re.findall(r"[\w]+|[^\w\s]", verses)} | {"<unk>"}
    assert {*re.findall(r"<unk>|[\w]+|[^\w\s]", (folder / "samples.txt").read_text())} <= known
    sample.main(["--ckpt_path", str(folder), "--prompt", "In the", "--max_length", "20", "--num", "3"])
    assert capsys.readouterr().out.count("In the") >= 3
    evaluate.main(["--ckpt_path", str(folder), "--corpus", "other.txt"])
    assert "trained on a different corpus" in capsys.readouterr().out
    evaluate.main(["--ckpt_path", str(folder), "--mix", "0.5"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if " val " in line]
    assert float(lines[0][3]) == pytest.approx(metrics["val"]["loss"], abs=1e-4)
    assert run_train("--ckpt_path", "last", "--trainer.max_steps", "320")[0] == folder
