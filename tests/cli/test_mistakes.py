import pytest

from ngram_mlp.cli import evaluate, sample, train
from ngram_mlp.models import MLP
from tests.conftest import PROJECT

DEFAULT = PROJECT / "configs" / "default.yaml"


class Manual(MLP):
    automatic_optimization = False


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--data.corpus", "nowhere.txt"], ["--data.corpus", "nowhere.txt", "sample"]),
        (["--data.corpus", "empty.txt"], ["--data.corpus", "empty.txt", "the file has no words"]),
        (["--data.corpus", "one.txt"], ["--data.corpus", "too few lines (1) for three splits"]),
        (["--data.corpus", "latin1.txt"], ["--data.corpus", "UTF-8"]),
        (["--data.block_size", "0"], ["--data.block_size 0", "at least 1"]),
        (["--data.batch_size", "1"], ["--data.batch_size 1", "at least 2"]),
        (["--model.block_size", "4"], ["--model.block_size 4", "--data.block_size"]),
        (["--model.n_hidden", "-3"], ["--model.n_hidden -3", "at least 1"]),
        (["--model.n_hidden", "many"], ["--model.n_hidden many: give a whole number"]),
        (["--model.n_hiden", "3"], ["--model.n_hiden", "n_hidden"]),
        (["--trainer.max_stepz=3"], ["--trainer.max_stepz", "--trainer.max_steps"]),
        (["--lr", "0.2"], ["--lr 0.2; did you mean --model.optimizer.lr?"]),
        (["--n_hidden", "3"], ["--n_hidden 3; did you mean --model.n_hidden?"]),
        (["--model.lr", "0.2"], ["--model.lr 0.2: ", "; did you mean --model.optimizer.lr?"]),
        (["--batch-size", "3"], ["--data.batch_size"]),
        (["--model.n_embedding", "3"], ["--model.n_embedding 3", "did you mean --model.n_embd?"]),
        (["--data.corpus", "."], ["--data.corpus .: . is a folder; give a text file"]),
        (["--data.min_count", "3"], ["--data.min_count 3: applies only to words; set tokens to words"]),
        (["--trainer.devices", "0"], ["--trainer.devices 0: ", "; give another value"]),
        (["--trainer.profiler", "nope"], ["--trainer.profiler nope: ", "'simple'"]),
        (["--trainer.max_time", "00:00:00:00"], ["--trainer.max_time 00:00:00:00: leaves no time to train"]),
        (["--epochs", "3"], ["--trainer.max_epochs"]),
        (["--gain", "3"], ["--gain 3", "did you mean --model.batch_norm.gain?"]),
        (["fit"], ["unrecognized arguments: fit"]),
        (["--trainer.max_steps", "-2"], ["max_steps", "-2"]),
        (["--trainer.val_check_interval", "0.5"], ["val_check_interval", "integer"]),
        (["--trainer.accelerator", "abacus"], ["--trainer", "abacus"]),
        (["--model.n_layers", "0"], ["--model.n_layers 0", "at least 1"]),
        (["--model", "MLP", "--model.norm.kind", "instance"], ["--model.norm.kind instance", "none, layer, group"]),
        (["--model.batch_norm.kind", "batchh"], ["--model.batch_norm.kind batchh", "BatchNorm1d"]),
        (["--model", "MLP", "--model.norm.kind", "batch"], ["--model.norm.kind batch", "BatchNormMLP"]),
        (["--model.norm.kind", "layer"], ["--model.norm.kind layer", "--model.batch_norm.kind"]),
        (["--model.batch_norm.knd", "batch"], ["--model.batch_norm.knd", "--model.batch_norm.kind"]),
        (
            ["--model", "MLP", "--model.norm.kind", "group", "--model.norm.groups", "7"],
            ["--model.norm.groups 7", "200 units"],
        ),
        (["--model.batch_norm.kind", "BatchNorm1d", "--data.batch_size", "1"], ["--data.batch_size 1", "at least 2"]),
        (["--observe.layers", "hiden*"], ["--observe.layers hiden*", "hidden1.linear"]),
        (["--observe.every_n_updates", "never"], ["--observe.every_n_updates never", "1000/10000/0"]),
        (["--model.activation", "tanh"], ["--model.activation tanh", "Tanh"]),
        (["--model.activation", "RReLU"], ["--model.activation RReLU", "GELU"]),
        (["--observe.saturation", "5"], ["--observe.saturation 5", "0.97"]),
        (["--model.initialization.output_bias", "0"], ["--model.initialization.output_bias", "normal"]),
        (["--model.initialization", "normal"], ["--model", "initialization"]),
        (["--statistics", "both"], ["--statistics", "calibrated"]),
        (["--model.lr_scheduler", "WarmupCosine", "--model.lr_scheduler.warmup", "9"], ["total"]),
        (["--model.optimizer.lr", "-1"], ["--model.optimizer", "-1"]),
        (["--model.optimizer.lr", "1e30"], ["loss is", "at update", "lr"]),
        (["--model.optimizer", "SparseAdam"], ["--model.optimizer SparseAdam", "use Adam"]),
        (["--model.optimizer", "LBFGS", "--engine", "eager"], ["--engine eager", "LBFGS", "lightning"]),
        (["--model.lr_scheduler", "LRScheduler"], ["--model.lr_scheduler", "abstract"]),
        (["--model.lr_scheduler", "ChainedScheduler"], ["--model.lr_scheduler", "choose another"]),
        (
            ["--trainer.callbacks+=LearningRateFinder"],
            ["--trainer.callbacks", "LearningRateFinder", "lr or learning_rate", "remove"],
        ),
        (["--trainer.callbacks+=BaseFinetuning"], ["--trainer: ", "callbacks.finetuning", "subclass"]),
        (["--trainer.callbacks+=BackboneFinetuning"], ["--trainer.callbacks", "BackboneFinetuning", "backbone"]),
        (
            ["--trainer.callbacks+=WeightAveraging", "--engine", "fused"],
            ["--engine fused", "WeightAveraging", "use auto or lightning"],
        ),
        (["--model.lr_scheduler", "StepLR"], ["--model.lr_scheduler StepLR", "required: step_size"]),
        (["--model.lr_scheduler", "ReduceLROnPlateau"], ["torch.optim.lr_scheduler.ReduceLROnPlateau"]),
        (["--trainer.precision", "17"], ["--trainer.precision 17", "bf16-mixed"]),
        (["--trainer.logger", "Foo"], ["--trainer.logger Foo: give a subclass of Logger, true, false or null"]),
        (["--model.optimizer", "Adamw"], ["--model.optimizer Adamw", "did you mean AdamW?"]),
        (["--model.optimizer.lr", "high"], ["--model.optimizer.lr high: give a number"]),
        (["--trainer.max_epochs", "1.5"], ["--trainer.max_epochs 1.5: give a whole number or null"]),
        (
            ["--model.lr_scheduler={class_path: OneCycleLR, init_args: {max_lr: 1, total_steps: 9}}"],
            ["--model.lr_scheduler OneCycleLR with total_steps 9", "give 2000"],
        ),
        (["--model", f"{__name__}.Manual"], ["--model: Manual uses manual optimization"]),
        (["--model", "mine.Model"], ["No module named 'mine'", "PYTHONPATH"]),
        (["--model", "ngram_mlp.models.MPL"], ["--model ngram_mlp.models.MPL: module", "has no attribute 'MPL'"]),
        (["--trainer.strategy", "ddp_spawn"], ["--trainer.strategy DDPStrategy", "only ddp"]),
        (["--trainer.devices", "abc"], ["--trainer:", "`devices`"]),
        (["--trainer.plugins", "AsyncCheckpointIO"], ["--trainer.plugins", "AsyncCheckpointIO", "remove this plugin"]),
        (["--trainer.max_steps", "99999999999999999999"], ["--trainer.max_steps 99999999999999999999"]),
        (["--data.batch_size", "99999999999999999999"], ["--data.batch_size 99999999999999999999", "at most"]),
        (["--model.n_hidden", "10000000000"], ["not enough memory"]),
        (["--data.batch_size", "9000000000"], ["--data.batch_size 9000000000", "GB", "give "]),
        (["--trainer.logger", "CometLogger"], ["comet-ml", "pip install"]),
        (
            ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay", "2"],
            ["Invalid decay value 2", "[0,1]"],
        ),
        (["--trainer.accumulate_grad_batches", "0"], ["--trainer.accumulate_grad_batches 0", "at least 1"]),
        (["--trainer.barebones", "true"], ["--trainer.barebones True", "remove this option"]),
        (["--seed_everything", "-1"], ["--seed_everything", "-1"]),
        (["--checkpoint_every", "0"], ["--checkpoint_every 0"]),
        (["--ckpt_path", "dot.txt"], ["--ckpt_path dot.txt", "not a checkpoint"]),
        (["--resume", "nowhere"], ["--resume nowhere: there is no nowhere/config.yaml"]),
        (["--ckpt_path", "nowhere.ckpt"], ["--ckpt_path nowhere.ckpt", "No such file"]),
        (["--config", "nowhere.yaml"], ["--config", "nowhere.yaml"]),
        (["--runs_dir", "dot.txt"], ["--runs_dir dot.txt"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") and len(value) < 3 else "",
)
def test_a_mistake_gets_one_line_that_names_it(args, told, fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "one.txt").write_text("ada")
    (tmp_path / "latin1.txt").write_bytes("zoë\nada\n".encode("latin-1"))
    (tmp_path / "dot.txt").write_text("ada\na.b\n")
    line = fails(train.main, DEFAULT, ["--data.corpus", "sample", "--trainer.max_steps", "2000", *args])
    for word in told:
        assert word in line
    if "at update" not in line:
        assert not list(tmp_path.glob("runs/*/version_*"))  # what never began leaves no folder


def test_what_is_monitored_but_not_logged_is_named_beside_what_is(run_train, fails):
    stopping = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/los"]
    line = fails(train.main, DEFAULT, ["--data.corpus", str(run_train.corpus), "--trainer.max_steps", "20", *stopping])
    assert "--trainer: Early stopping conditioned on metric `val/los` which is not available." in line
    assert "`train/loss`, `val/loss`" in line


class Broken(MLP):
    def training_step(self, batch, batch_idx):
        raise RuntimeError("a bug of the model's own")


def test_a_bug_is_not_taken_for_a_metric_that_nothing_logs(run_train):
    stopping = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/loss"]
    with pytest.raises(RuntimeError, match="a bug of the model's own"):
        run_train("--trainer.max_steps", "20", "--model", f"{__name__}.Broken", *stopping)


def test_resuming_with_another_model_or_corpus_is_refused(run_train, fails, tmp_path):
    folder, _ = run_train("--trainer.max_steps", "10")
    resume = ["--trainer.max_steps", "20", "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]
    corpus = ["--data.corpus", str(tmp_path / "words.txt")]
    line = fails(train.main, DEFAULT, [*corpus, *resume, "--model.n_hidden", "9"])
    assert "--model.n_hidden 9" in line
    assert "200" in line
    assert "MLP" in fails(train.main, DEFAULT, [*corpus, *resume, "--model", "MLP"])
    (tmp_path / "words.txt").write_text((tmp_path / "words.txt").read_text() + "\nanna")
    assert "corpus" in fails(train.main, DEFAULT, [*corpus, *resume])


@pytest.mark.parametrize(
    ("main", "args", "told"),
    [
        (sample.main, ["--num", "-1"], "--num -1"),
        (sample.main, ["--prompt", "a7"], "'7'"),
        (sample.main, ["--prompt", "a."], "'.'"),
        (sample.main, ["--temperature", "0"], "--temperature 0"),
        (sample.main, ["--temperature", "nan"], "--temperature nan: "),
        (sample.main, ["--max_length", "0"], "--max_length 0"),
        (sample.main, ["--model", "ngram_mlp.models.WaveNet"], "MLP"),
        (evaluate.main, ["--corpus", "other.txt"], "characters"),
        (evaluate.main, ["--corpuss", "sample"], "--corpus"),
    ],
)
def test_mistakes_with_a_checkpoint(main, args, told, run_train, fails, tmp_path):
    folder, _ = run_train("--trainer.max_steps", "1")
    (tmp_path / "other.txt").write_text("ÄÖ\n" * 10)
    assert told in fails(main, ["--ckpt_path", str(folder / "checkpoints" / "last.ckpt"), *args])


def test_what_is_not_a_mistake_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sample, "read_checkpoint", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample.main(["--ckpt_path", "x"])
