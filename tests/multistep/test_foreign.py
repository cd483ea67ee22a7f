"""Modules that know nothing of this package, trained by it as by ordinary Lightning."""

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from tests.multistep.foreign import FOREIGN, Foreign
from tests.multistep.training import assert_same, train

SHORT = ("tabular", "reads global_step", "counts")
NAMES = [pytest.param(name, marks=[] if name in SHORT else pytest.mark.slow) for name in FOREIGN]
LONG = (
    "LSTM",
    "attention",
    "auto-encoder",
    "convolution",
    "custom Function",
    "derivative in the loss",
    "frozen groups",
)  # to compile
EPOCHS = {"max_epochs": 3}
ACCUMULATED = {"max_epochs": -1, "max_steps": 11, "accumulate_grad_batches": 4, "gradient_clip_val": 0.1}


class Remembering:
    """A loader that resumes within an epoch: it draws with replacement, and its state is that of its generator."""

    def __init__(self, foreign: Foreign) -> None:
        self.dataset, self.collate = foreign.dataset(), foreign.loader().collate_fn
        self.generator = torch.Generator().manual_seed(7)

    def __len__(self):
        return 10

    def __iter__(self):
        while True:
            rows = torch.randint(len(self.dataset), (16,), generator=self.generator)
            yield self.collate([self.dataset[int(row)] for row in rows])

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])


@pytest.mark.usefixtures("always_compile")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in FOREIGN])
def test_trains_as_ordinary_lightning_does_over_epochs_with_an_odd_last_minibatch(name):
    foreign = FOREIGN[name]
    ordinary = train(foreign.make, None, foreign.loader, **EPOCHS)
    assert_same(train(foreign.make, "eager", foreign.loader, **EPOCHS), ordinary, exactly=True)
    found = train(foreign.make, "auto", foreign.loader, **EPOCHS)
    assert found.multistep.engine_used == foreign.engine
    assert_same(found, ordinary, exactly=foreign.engine == "eager")


@pytest.mark.usefixtures("always_compile")
@pytest.mark.parametrize("name", NAMES)
def test_trains_so_with_accumulation_and_clipping_for_a_number_of_updates(name):
    foreign = FOREIGN[name]
    ordinary = train(foreign.make, None, foreign.loader, **ACCUMULATED)
    assert ordinary.trainer.global_step == 11
    assert_same(train(foreign.make, "eager", foreign.loader, **ACCUMULATED), ordinary, exactly=True)
    found = train(foreign.make, "auto", foreign.loader, **ACCUMULATED)
    assert found.multistep.engine_used == foreign.engine
    assert_same(found, ordinary, exactly=foreign.engine == "eager")


@pytest.mark.usefixtures("always_compile")
@pytest.mark.parametrize("engine", ["eager", "auto"])
@pytest.mark.parametrize("name", NAMES)
def test_resumes_within_an_epoch_to_the_bits_of_a_run_without_interruption(name, engine, tmp_path):
    foreign = FOREIGN[name]

    def run(folder, engine, steps, ckpt_path=None):
        saves = ModelCheckpoint(folder, every_n_train_steps=7, save_top_k=-1, filename="{step}")
        options = {"max_epochs": -1, "max_steps": steps, "enable_checkpointing": True}
        return train(foreign.make, engine, Remembering(foreign), [saves], ckpt_path, **options)

    whole = run(tmp_path / "whole", engine, 25)
    assert_same(whole, run(tmp_path / "ordinary", None, 25), exactly=whole.multistep.engine_used == "eager")
    run(tmp_path / "cut", engine, 14)
    resumed = run(tmp_path / "resumed", "auto", 25, tmp_path / "cut" / "step=14.ckpt")
    assert resumed.multistep.engine_used == whole.multistep.engine_used
    assert resumed.trainer.global_step == 25
    for name, value in whole.states.items():
        torch.testing.assert_close(resumed.states[name], value, rtol=0, atol=0, msg=name)


def test_a_checkpoint_of_ordinary_lightning_is_resumed_and_the_other_way_round(tmp_path):
    foreign = FOREIGN["tabular"]

    def run(folder, engine, steps, ckpt_path=None):
        saves = ModelCheckpoint(folder, every_n_train_steps=7, save_top_k=-1, filename="{step}")
        options = {"max_epochs": -1, "max_steps": steps, "enable_checkpointing": True}
        return train(foreign.make, engine, Remembering(foreign), [saves], ckpt_path, **options)

    whole = run(tmp_path / "ordinary", None, 25)
    run(tmp_path / "eager", "eager", 14)
    assert_same(run(tmp_path / "a", "eager", 25, tmp_path / "ordinary" / "step=14.ckpt"), whole, exactly=True)
    assert_same(run(tmp_path / "b", None, 25, tmp_path / "eager" / "step=14.ckpt"), whole, exactly=True)
    loops = [
        torch.load(tmp_path / folder / "step=14.ckpt", weights_only=True)["loops"]["fit_loop"]
        for folder in ("ordinary", "eager")
    ]
    for key in ("epoch_loop.batch_progress", "epoch_loop.automatic_optimization.optim_progress", "epoch_progress"):
        assert loops[0][key] == loops[1][key], key
