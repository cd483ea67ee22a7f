"""Models and data used from Python as any LightningModule and LightningDataModule are."""

import io
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from multistep import MultiStep
from ngram_mlp import MLP, BatchNormMLP, LanguageModel, NGramDataModule, WaveNet
from ngram_mlp.callbacks import Losses
from ngram_mlp.models.metrics import evaluate
from runlab import UserError
from tests.lightning_table import QUIET, at_peace


@pytest.fixture
def data(corpus_file):
    return NGramDataModule(str(corpus_file))


def fitted(model, data, **options):
    with at_peace():
        trainer = Trainer(**QUIET | {"max_steps": 40} | options)
        trainer.fit(model, data)
    return trainer


def test_the_default_arguments_of_the_trainer_will_do(data, tmp_path, monkeypatch):
    """Logger, progress bar, summary and checkpoints are Lightning's own."""
    monkeypatch.chdir(tmp_path)
    model = MLP(data.vocabulary, data.block_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(max_steps=60, accelerator="cpu")
        trainer.fit(model, data)
        (validated,) = trainer.validate(model, data)
        (tested,) = trainer.test(model, data)
        predicted = torch.cat(trainer.predict(model, data))
    assert trainer.global_step == 60
    expected = evaluate(model.network, data.val_dataloader(), torch.device("cpu"))
    assert validated == pytest.approx({f"val/{name}": value for name, value in expected.items()})
    assert set(tested) == {"test/loss", "test/perplexity", "test/accuracy"}
    targets = data.splits["test"].targets.long()
    assert predicted.shape == (len(targets), len(data.vocabulary))
    likelihood = -predicted.gather(1, targets[:, None]).log().mean().item()
    assert likelihood == pytest.approx(tested["test/loss"], rel=1e-5)
    assert [path.name for path in tmp_path.rglob("*.ckpt")] == ["epoch=1-step=60.ckpt"]
    hyperparameters = (tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text()
    assert "n_hidden: 200" in hyperparameters
    assert "batch_size: 32" in hyperparameters
    assert "python/object" not in hyperparameters


@pytest.mark.parametrize(("kind", "block_size"), [(MLP, 3), (BatchNormMLP, 3), (WaveNet, 8)])
def test_a_checkpoint_saved_by_a_trainer_or_a_callback_is_a_model_again(kind, block_size, corpus_file, tmp_path):
    data = NGramDataModule(str(corpus_file), block_size)
    model = kind(data.vocabulary, block_size, n_hidden=20)
    saver = ModelCheckpoint(tmp_path, filename="saved", monitor="val/loss")
    trainer = fitted(model, data, callbacks=[saver], enable_checkpointing=True, val_check_interval=20)
    trainer.save_checkpoint(tmp_path / "by_hand.ckpt")
    for path in (saver.best_model_path, tmp_path / "by_hand.ckpt"):
        for loader in (kind, LanguageModel):
            again = loader.load_from_checkpoint(path)
            assert type(again) is kind
            assert again.training
            assert again.hparams == model.hparams
            assert all(a.equal(b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_arguments_that_a_checkpoint_does_not_hold_can_be_given(data, tmp_path):
    fitted(MLP(data.vocabulary, 3), data).save_checkpoint(tmp_path / "a.ckpt")
    model = MLP.load_from_checkpoint(tmp_path / "a.ckpt", optimizer=torch.optim.Adam)
    assert isinstance(model.configure_optimizers()["optimizer"], torch.optim.Adam)
    assert fitted(model, data).global_step == 40


def test_a_checkpoint_is_refused_in_a_line_where_it_is_another_models_or_runs_code(data, tmp_path):
    path = tmp_path / "a.ckpt"
    fitted(MLP(data.vocabulary, 3), data).save_checkpoint(path)
    with pytest.raises(UserError, match="holds a model 'MLP'"):
        BatchNormMLP.load_from_checkpoint(path)
    with pytest.raises(UserError, match="hparams_file"):
        MLP.load_from_checkpoint(path, hparams_file="hparams.yaml")

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "was_here",)

    content = torch.load(path, weights_only=True) | {"evil": Evil()}
    torch.save(content, path, pickle_module=pickle)
    with pytest.raises(UserError, match="cannot be read"):
        MLP.load_from_checkpoint(path)
    assert not (tmp_path / "was_here").exists()


def test_data_without_a_trainer_gives_minibatches(data):
    torch.manual_seed(5)
    data.setup("fit")
    contexts, targets = next(iter(data.train_dataloader()))
    torch.manual_seed(5)
    examples = torch.randint(0, len(data.splits["train"]), (32,))
    assert contexts.equal(data.splits["train"].contexts[examples].long())
    assert targets.equal(data.splits["train"].targets[examples].long())


def test_the_data_train_any_other_module(data):
    class Other(LightningModule):
        def __init__(self):
            super().__init__()
            self.network = MLP(data.vocabulary, 3).network

        def training_step(self, batch, batch_idx):
            assert batch[0].shape == (32, 3)
            return torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    assert fitted(Other(), data).global_step == 40


def test_a_model_trains_on_any_other_data(data):
    ngrams = data.splits["train"]
    loader = DataLoader(TensorDataset(ngrams.contexts.long(), ngrams.targets.long()), batch_size=16)
    model = MLP(data.vocabulary, 3)
    assert fitted(model, loader, limit_val_batches=0).global_step == 40


def test_a_model_can_be_trained_again_by_another_trainer_or_go_on_with_its_own(data, tmp_path):
    model = MLP(data.vocabulary, 3)
    losses = Losses()
    first = fitted(model, data, callbacks=[losses, MultiStep()])
    first.fit_loop.epoch_loop.max_steps = 70
    with at_peace():
        first.fit(model, data)
        first.save_checkpoint(tmp_path / "a.ckpt")
    assert (first.global_step, len(losses)) == (70, 70)
    again = fitted(model, data, callbacks=[losses, MultiStep()])
    assert (again.global_step, len(losses)) == (40, 40)
    with at_peace():
        resumed = Trainer(**QUIET, max_steps=90, callbacks=[losses, MultiStep()])
        resumed.fit(model, data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert (resumed.global_step, len(losses)) == (90, 90)
    assert losses.all.isfinite().all()


@pytest.mark.parametrize("engine", ["eager", pytest.param("fused", marks=pytest.mark.slow), "lightning"])
def test_a_run_in_python_resumes_bitwise(engine, corpus_file, tmp_path):
    def run(updates, **arguments):
        seed_everything(3)
        data = NGramDataModule(str(corpus_file))
        model = BatchNormMLP(data.vocabulary, 3, n_hidden=20)
        losses, multistep = Losses(), MultiStep(engine)
        with at_peace():
            options = {**QUIET, "max_steps": updates, "accumulate_grad_batches": 2, "gradient_clip_val": 0.4}
            options |= {"log_every_n_steps": 7, "val_check_interval": 20, "num_sanity_val_steps": 0}
            trainer = Trainer(**options, callbacks=[losses, multistep])
            trainer.fit(model, data, **arguments)
        assert multistep.engine_used == engine
        return model, trainer, losses.all

    whole, _, expected = run(60)
    _, interrupted, _ = run(25)
    interrupted.save_checkpoint(tmp_path / "last.ckpt")
    resumed, trainer, losses = run(60, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert trainer.global_step == 60
    assert losses.equal(expected)
    assert all(a.equal(b) for a, b in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True))


@pytest.mark.parametrize(("before", "after"), [("eager", "lightning"), ("lightning", "eager")])
def test_the_engine_may_change_between_eager_and_lightning_without_a_change_of_bits(
    before, after, corpus_file, tmp_path
):
    """With an average of the weights, too, which a checkpoint carries beside the weights themselves."""

    def run(engine, *callbacks, **arguments):
        seed_everything(3)
        data = NGramDataModule(str(corpus_file))
        model = BatchNormMLP(data.vocabulary, 3, n_hidden=20)
        losses, multistep = Losses(), MultiStep(engine)
        with at_peace():
            options = {**QUIET, "enable_checkpointing": True, "num_sanity_val_steps": 0, "max_steps": 60}
            trainer = Trainer(**options, callbacks=[losses, multistep, EMAWeightAveraging(decay=0.9), *callbacks])
            trainer.fit(model, data, **arguments)
        assert multistep.engine_used == engine
        return model, losses.all

    saver = ModelCheckpoint(tmp_path, every_n_train_steps=25, save_top_k=-1)
    whole, expected = run(before, saver)
    resumed, losses = run(after, ckpt_path=tmp_path / "epoch=0-step=25.ckpt", weights_only=True)
    assert losses.equal(expected)
    assert all(a.equal(b) for a, b in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True))


def test_an_open_file_is_no_path_of_a_checkpoint():
    with pytest.raises(UserError, match=r"ckpt_path BytesIO: give the path of a \.ckpt file of a run"):
        MLP.load_from_checkpoint(io.BytesIO())


def test_messages_name_arguments(data):
    with pytest.raises(UserError, match=r"^n_hidden 0: give a whole number of at least 1$"):
        MLP(data.vocabulary, 3, n_hidden=0)
    with pytest.raises(UserError, match=r"^kind batch: for batch norm use the model BatchNormMLP"):
        MLP(data.vocabulary, 3, norm="batch")
    for characters in ("", "aab", None):
        with pytest.raises(UserError, match="give a string or list with every token once"):
            MLP(characters, 3)
    with pytest.raises(UserError, match="block_size: give a whole number of at least 1"):
        MLP(data.vocabulary, None)
    with pytest.raises(UserError, match="sampling x: give replacement or epochs"):
        NGramDataModule(sampling="x")
    with pytest.raises(UserError, match="num -1: give a whole number of at least 0"):
        MLP(data.vocabulary, 3).sample(-1)


def test_a_step_without_a_loss_is_named(data):
    class Skips(MLP):
        def training_step(self, batch, batch_idx):
            return None

    with at_peace(), pytest.raises(UserError, match=r"^model Skips: training_step returned no loss"):
        Trainer(**QUIET | {"max_steps": 3, "callbacks": [Losses()]}).fit(Skips(data.vocabulary, 3), data)


def test_a_norm_is_given_by_its_name(data):
    norms = [type(module).__name__ for module in MLP(data.vocabulary, 3, norm="layer").network.modules()]
    assert "LayerNorm" in norms


@pytest.mark.parametrize("kind", [MLP, BatchNormMLP, WaveNet])
def test_a_model_with_its_defaults_is_pickled_as_any_module(kind, tmp_path):
    model = kind(".abc", 4)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    contexts = torch.zeros(2, 4, dtype=torch.long)
    assert loaded.eval()(contexts).equal(model.eval()(contexts))
    assert loaded.configure_optimizers()["optimizer"].param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    ("characters", "block_size", "told"),
    [
        (lambda own: own[0] + own[:0:-1], 3, "tokens are .* in the data, .* in the model"),
        (lambda own: own[:-1], 3, "tokens are .* in the data, .* in the model"),
        (lambda own: own, 4, "the model has 4; use the same for both"),
    ],
)
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_a_model_for_other_data_is_refused_before_it_sees_them(characters, block_size, told, stage, data):
    model = MLP(characters(data.vocabulary), block_size)
    with at_peace(), pytest.raises(UserError, match=told):
        getattr(Trainer(**QUIET | {"max_steps": 3}), stage)(model, data)


def test_a_model_samples_words_from_a_seed(data):
    model = MLP(data.vocabulary, 3)
    words = model.sample(5, seed=3, prompt="a", temperature=0.5)
    assert len(words) == 5
    assert all(word.startswith("a") for word in words)
    assert words == model.sample(5, seed=3, prompt="a", temperature=0.5) != model.sample(5, seed=4, prompt="a")
    assert model.training
    contexts = data.splits["train"].contexts[:7]  # as they are kept, in uint8
    assert model(contexts).equal(model(contexts.long()))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: MLP(".a", 3, optimizer="AdamW"), "optimizer AdamW: give a function, such as lambda parameters"),
        (
            lambda: MLP(".a", 3, lr_scheduler="StepLR"),
            "lr_scheduler StepLR: give a function, such as lambda optimizer",
        ),
        (lambda: MLP(".a", 3, activation=torch.nn.GELU), "try Tanh, ReLU or GELU"),
        (lambda: NGramDataModule(["emma", "ava"]).corpus, "corpus: give auto, names, sample, or the path of a file"),
    ],
)
def test_an_argument_of_another_kind_is_one_line(make, told):
    with pytest.raises(UserError) as error:
        make()
    assert told in str(error.value)
    assert "\n" not in str(error.value)
