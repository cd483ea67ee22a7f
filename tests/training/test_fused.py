import logging

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn
from torch._inductor.exc import CppCompileError

from ngram_mlp.data import NGramDataModule
from ngram_mlp.errors import UserError
from ngram_mlp.models import MLP, BatchNormMLP
from ngram_mlp.models.layers import BatchNorm
from ngram_mlp.models.mlp import Residual
from ngram_mlp.training import Before, CannotFuseError, choose_engine
from ngram_mlp.training.compiling.compiler import fast_tanh
from tests.lightning_table import QUIET, at_peace
from tests.training.runs import EagerEngine, FusedEngine, Run, agree, sgd


def deep():
    """Every kind of layer that has a state or a randomness of its own."""
    return nn.Sequential(
        nn.Embedding(27, 10),
        nn.Flatten(),
        nn.Linear(30, 40, bias=False),  # in front of a norm a bias has a gradient of rounding errors alone
        BatchNorm(40),
        nn.Tanh(),
        Residual(nn.Linear(40, 40), nn.LayerNorm(40), nn.GELU()),
        nn.Dropout(0.1),
        nn.Linear(40, 40, bias=False),
        nn.BatchNorm1d(40),
        nn.ReLU(),
        nn.GroupNorm(4, 40),
        nn.Linear(40, 27),
    )


def momentum(parameters):
    parameters = list(parameters)
    slow = {"params": parameters[:1], "lr": 0.01, "weight_decay": 0.0}
    return torch.optim.SGD([slow, {"params": parameters[1:]}], lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=3e-3)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="batch norm"),
        pytest.param({"model_class": MLP}, id="no norm", marks=pytest.mark.slow),
        pytest.param({"optimizer": momentum}, id="with momentum and parameter groups"),
        pytest.param({"network": deep, "optimizer": adamw}, id="deep, with AdamW", marks=pytest.mark.slow),
    ],
)
def test_it_agrees_with_the_eager_engine(options):
    eager, fused = Run(EagerEngine, **options), Run(FusedEngine, **options)
    # Deep networks with momentum magnify a difference in the last bit, after a hundred updates, to any size.
    updates = 40 if "network" in options or options.get("optimizer") is momentum else 1_000
    torch.manual_seed(1)
    expected = eager.train(updates)
    torch.manual_seed(1)
    torch.testing.assert_close(fused.train(updates), expected, rtol=1e-4, atol=0)
    agree(eager, fused)


def test_it_has_the_same_bits_however_the_updates_are_cut_and_hands_over_to_the_eager_engine():
    whole, cut, eager = (
        Run(FusedEngine, optimizer=adamw),
        Run(FusedEngine, optimizer=adamw),
        Run(EagerEngine, optimizer=adamw),
    )
    losses = whole.train(200, intervals=[150])
    assert cut.train(200, intervals=[1, 7])[:20].equal(losses[:20])
    for expected, found in zip(whole.model.state_dict().values(), cut.model.state_dict().values(), strict=True):
        assert expected.equal(found)
    eager.train(200)
    whole.hand_over(EagerEngine)
    torch.testing.assert_close(whole.train(300), eager.train(300), rtol=1e-4, atol=0)
    assert whole.optimizer.state_dict()["state"].keys() == eager.optimizer.state_dict()["state"].keys()
    agree(eager, whole, tolerance=2e-3)


def test_the_fast_tanh_is_exact_to_a_few_units_in_the_last_place():
    magnitudes = torch.logspace(-8, 1.2, 100_001)
    x = torch.cat([-magnitudes, torch.zeros(1), magnitudes])
    exact = torch.tanh(x.double())
    error = (fast_tanh(x).double() - exact).abs()
    assert (error <= 4 * 2**-23 * exact.abs()).all()
    assert (fast_tanh(x).abs() <= 1 + 2**-23).all()
    assert fast_tanh(torch.tensor([float("nan")])).isnan().all()


class Capricious(nn.Module):
    """Decides by what it sees, which no compiler can."""

    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def capricious():
    return nn.Sequential(nn.Embedding(27, 10), nn.Flatten(), nn.Linear(30, 27), Capricious())


def with_nothing_to_train(parameters):
    stranger = torch.nn.Parameter(torch.zeros(1))
    return torch.optim.SGD([{"params": list(parameters)}, {"params": [stranger]}], lr=0.1)


def one_cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)


def choose(run, wanted, updates=10**9, before=None):
    chunk = torch.randint(27, (5, 32, 3)), torch.randint(27, (5, 32))
    engine = run.engine
    return choose_engine(wanted, run.model.network, run.optimizer, engine._scheduler, chunk, updates, before)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"network": capricious}, "cannot be compiled"),
        ({"optimizer": torch.optim.RMSprop}, "RMSprop has no functional form"),
        ({"optimizer": lambda p: torch.optim.AdamW(p, amsgrad=True)}, "no amsgrad"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1)}, "no dampening"),
        ({"optimizer": with_nothing_to_train}, "nothing of the network"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "schedule": one_cycle}, "OneCycleLR"),
    ],
)
def test_what_cannot_be_fused_falls_back_with_a_reason_or_is_refused(options, reason, caplog):
    caplog.set_level(logging.INFO, "ngram_mlp")
    run = Run(EagerEngine, **options)
    assert choose(run, "auto").name == "eager"
    assert reason in caplog.text
    with pytest.raises(UserError, match=reason):
        choose(run, "fused")


@pytest.fixture
def nothing_compiled(monkeypatch, tmp_path):
    """A machine on which nothing was compiled before."""
    monkeypatch.setenv("MULTISTEP_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.usefixtures("nothing_compiled")
def test_without_onednns_kernels_blas_computes_the_products(monkeypatch):
    from ngram_mlp.training.compiling import native

    without = native.PRODUCTS.replace("return c == 1;", "return false;")
    assert without != native.PRODUCTS
    monkeypatch.setattr(native, "PRODUCTS", without)
    eager, fused = Run(EagerEngine), Run(FusedEngine)
    torch.testing.assert_close(fused.train(300), eager.train(300), rtol=1e-4, atol=0)


@pytest.mark.usefixtures("nothing_compiled")
def test_without_a_compiler_the_eager_engine_takes_over(caplog):
    caplog.set_level(logging.INFO, "ngram_mlp")
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert choose(Run(EagerEngine), "auto").name == "eager"
    assert "cannot be compiled here" in caplog.text


@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.slow
def test_where_the_compiler_refuses_the_processors_instructions_it_is_asked_which_it_knows(monkeypatch):
    from ngram_mlp.training.compiling import compiler

    build, trusted = compiler.build, []

    def old_compiler(*args):
        trusted.append(torch._inductor.config.cpp.vec_isa_ok)
        if trusted[-1]:
            raise CppCompileError(["g++"], "unrecognized option -mnew")
        return build(*args)

    monkeypatch.setattr(compiler, "build", old_compiler)
    assert Run(FusedEngine, model_class=MLP).train(5).isfinite().all()
    assert trusted == [True, None]


@pytest.mark.usefixtures("nothing_compiled")
def test_auto_weighs_what_compiling_costs_against_the_updates_to_come(caplog):
    caplog.set_level(logging.INFO, "ngram_mlp")
    assert choose(Run(EagerEngine), "auto", updates=20).name == "eager"
    assert "updates on, 20 are to come" in caplog.text
    assert choose(Run(EagerEngine), "auto", updates=10**6).name == "fused"
    assert "compiled in" in caplog.text
    assert choose(Run(EagerEngine), "auto", updates=20).name == "fused"  # as loading costs nothing
    assert "compiled before, loaded" in caplog.text


def test_a_resumed_run_stays_with_its_engine(caplog):
    caplog.set_level(logging.INFO, "ngram_mlp")
    assert choose(Run(EagerEngine), "auto", before=Before("eager", 1)).name == "eager"
    assert "as before the interruption" in caplog.text
    assert choose(Run(EagerEngine), "eager").name == "eager"
    assert choose(Run(EagerEngine), "auto", updates=1, before=Before("fused", 1)).name == "fused"


def test_an_unknown_optimizer_is_told_before_anything_is_compiled():
    with pytest.raises(CannotFuseError, match="Adagrad"):
        Run(FusedEngine, optimizer=torch.optim.Adagrad)


@pytest.mark.parametrize(
    ("options", "averaging"),
    [
        ({"gradient_clip_val": 0.3, "accumulate_grad_batches": 3}, {"decay": 0.9, "update_starting_at_step": 5}),
        pytest.param(
            {"gradient_clip_val": 0.02, "gradient_clip_algorithm": "value"},
            {"use_buffers": False, "update_every_n_steps": 3},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["by norm, accumulated, averaged with its buffers", "by value, averaged at times"],
)
def test_clipping_accumulation_and_averages_agree_with_the_eager_engine(options, averaging, corpus_file):
    models = []
    for engine in ("eager", "fused"):
        torch.manual_seed(3)
        data = NGramDataModule(str(corpus_file))
        model = BatchNormMLP(data.characters, 3, n_hidden=20, engine=engine, optimizer=sgd)
        average = EMAWeightAveraging(**averaging)
        with at_peace():
            Trainer(**QUIET, **options, max_steps=50, val_check_interval=24, callbacks=[average]).fit(model, data)
        assert model.engine_name == engine
        models.append((model, average))
    (eager, expected), (fused, found) = models
    torch.testing.assert_close(fused.losses.all, eager.losses.all, rtol=1e-4, atol=0)
    torch.testing.assert_close(fused.state_dict(), eager.state_dict(), rtol=1e-3, atol=1e-5)
    assert found.state_dict() == expected.state_dict()
    assert found._average_model.n_averaged == expected._average_model.n_averaged > 10
