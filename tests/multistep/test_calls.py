"""When callbacks are called, what they are told, and what wants every update."""

import inspect
from functools import partial

import pytest
import torch
from pytorch_lightning import Callback, Trainer, callbacks

from multistep import Calls, MultiStep
from tests.multistep.settings import Called
from tests.multistep.training import SIZE, Classifier, loader, train

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
QUIET |= {"accelerator": "cpu"}


class Noting(Callback):
    """Notes every call, as ordinary training makes them."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen["start", trainer.global_step] = batch_idx, float(batch[0].sum())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen["end", trainer.global_step] = batch_idx, float(batch[0].sum())


@pytest.mark.parametrize("engine", ["eager", "fused"])
@pytest.mark.parametrize(
    ("calls", "started", "ended"),
    [
        (Calls(after=(7,)), (), (7, 14, 21, 28, 35, 42, 49, 56)),
        (Calls(before=(10,)), (9, 19, 29, 39, 49, 59), ()),
        (Calls(around=(25,)), (0, 25, 50, 59), (1, 26, 51, 60)),
        (Calls(around=()), (59,), (60,)),
        (((30,), (), None), (), (30, 60)),
    ],
)
def test_a_callback_is_called_where_it_declares_with_the_minibatch_of_that_update(engine, calls, started, ended):
    ordinary, called = Noting(), Called(calls)
    train(Classifier, None, callbacks=[ordinary])
    train(Classifier, engine, callbacks=[called])
    found = {row[:2]: row[2:4] for row in called.seen if row[0] == "start"}
    found |= {row[:2]: (row[2],) for row in called.seen if row[0] == "end"}
    for update in started:
        assert found["start", update] == ordinary.seen["start", update]
    for update in ended:
        assert found["end", update][0] == ordinary.seen["end", update][0]
    assert len(called.seen) < 2 * 60 / 2  # most updates are performed without a call


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_a_callback_that_comes_later_is_told_as_well(engine):
    class Late(Callback):
        update_calls = Calls(after=(10,))
        told = 0

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.told += len(outputs["logged"]["train/loss"])

    class Adding(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.callbacks.append(late)

    late = Late()
    train(Classifier, engine, callbacks=[Adding()])
    assert late.told == 40  # two epochs


@pytest.mark.parametrize(
    ("engine", "accumulate"),
    [("eager", 1), ("eager", 4), ("fused", 1), pytest.param("fused", 4, marks=pytest.mark.slow)],
)
def test_a_hook_is_told_of_all_minibatches_since_the_last_one(engine, accumulate):
    class Every(Callback):
        def __init__(self):
            self.losses = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.losses.append(outputs["loss"] * accumulate)

    class AtTimes(Every):
        update_calls = Calls(after=(5,))

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            assert outputs["logged"]["train/loss"].tolist() == outputs["losses"].tolist()
            assert outputs["losses"][-1] / accumulate == outputs["loss"]
            self.losses += outputs["losses"].unbind()

    every, at_times = Every(), AtTimes()
    train(Classifier, None, callbacks=[every], accumulate_grad_batches=accumulate)
    found = train(Classifier, engine, callbacks=[at_times], accumulate_grad_batches=accumulate)
    assert found.multistep.engine_used == engine
    exactly = {"rtol": 0, "atol": 0} if engine == "eager" else {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(torch.stack(at_times.losses), torch.stack(every.losses), **exactly)


def test_with_accumulation_a_hook_precedes_the_first_minibatch_of_its_update():
    called = Called(Calls(around=(3,)))
    train(Classifier, "eager", callbacks=[called], accumulate_grad_batches=4)
    firsts = [row for row in called.seen if row[0] == "start" and row[2] % 4 == 0]
    assert {row[1] for row in firsts} >= {0, 3, 6, 9, 12, 14}


# What Lightning's own callbacks need: the others override no hook of a batch.
EVERY_UPDATE = {"SpikeDetection", "ThroughputMonitor", "WeightAveraging"}
MADE = {
    "BatchSizeFinder": None,  # trains by itself
    "LearningRateFinder": None,
    "BackboneFinetuning": None,  # wants a module with a backbone
    "BaseFinetuning": None,  # abstract
    "BasePredictionWriter": None,
    "ModelPruning": None,  # replaces parameters by others; see the settings
    "DeviceStatsMonitor": partial(callbacks.DeviceStatsMonitor, cpu_stats=False),
    "EarlyStopping": partial(callbacks.EarlyStopping, "train/loss"),
    "GradientAccumulationScheduler": partial(callbacks.GradientAccumulationScheduler, {1: 2}),
    "LambdaCallback": callbacks.LambdaCallback,
    "OnExceptionCheckpoint": partial(callbacks.OnExceptionCheckpoint, "."),
    "SpikeDetection": None,  # needs a strategy of several processes
    "StochasticWeightAveraging": partial(callbacks.StochasticWeightAveraging, 0.1),
    "ThroughputMonitor": partial(callbacks.ThroughputMonitor, batch_size_fn=len),
    "Timer": partial(callbacks.Timer, "00:01:00:00"),
}
COMPILED = {"EMAWeightAveraging", "GradientAccumulationScheduler", "StochasticWeightAveraging"}  # for longer
NAMES = [
    name
    for name, cls in vars(callbacks).items()
    if inspect.isclass(cls) and issubclass(cls, Callback) and MADE.get(name, cls) is not None
]


@pytest.mark.usefixtures("always_compile")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in COMPILED)) for n in NAMES])
def test_lightnings_own_callbacks_are_known(name, tmp_path):
    make = MADE.get(name, getattr(callbacks, name))
    options = {"logger": True, "default_root_dir": tmp_path, "log_every_n_steps": 5, "max_epochs": 2}
    options |= {"enable_progress_bar": "Progress" in name, "enable_model_summary": "Summary" in name}
    options |= {"enable_checkpointing": "Checkpoint" in name}
    found = train(Classifier, "auto", callbacks=[make()], **options)
    assert found.multistep.engine_used == ("lightning" if name in EVERY_UPDATE else "fused"), found.multistep.reason


class Tunable(Classifier):
    """Has the attributes that Lightning's finders set."""

    def __init__(self):
        super().__init__()
        self.lr, self.batch_size = 0.1, SIZE

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self):
        return loader(batch_size=self.batch_size, shuffle=False)


@pytest.mark.parametrize("engine", ["eager", pytest.param("fused", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "find",
    [
        partial(callbacks.LearningRateFinder, num_training_steps=20),
        partial(callbacks.BatchSizeFinder, init_val=4, max_trials=2, steps_per_trial=2),
    ],
    ids=["rate", "batch size"],
)
def test_a_finder_that_trains_by_itself_finds_what_it_finds_in_ordinary_training(find, engine, tmp_path):
    found = []
    for order in ([find()], [find(), MultiStep(engine)], [MultiStep(engine), find()]):
        torch.manual_seed(1)
        module = Tunable()
        trainer = Trainer(max_epochs=2, callbacks=order, default_root_dir=tmp_path, **QUIET)
        trainer.fit(module)
        found.append(
            (module.lr, module.batch_size, trainer.global_step, *(p.norm().item() for p in module.parameters()))
        )
    assert found[1] == pytest.approx(found[0], rel=0 if engine == "eager" else 1e-4)
    assert found[2] == pytest.approx(found[0], rel=0 if engine == "eager" else 1e-4)


def test_a_callback_may_change_what_encloses_it():
    calls = 0

    class Counting(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            nonlocal calls
            calls += 1

    assert train(Classifier, "fused", callbacks=[Counting()]).multistep.engine_used == "fused"
    assert calls == 3


def test_a_training_after_one_that_failed_is_its_own():
    class Failing(Classifier):
        def training_step(self, batch, batch_idx):
            if self.global_step == 30:
                raise OSError("it failed")
            return super().training_step(batch, batch_idx)

    multistep, ends = MultiStep("eager"), []
    trainer = Trainer(max_epochs=3, callbacks=[multistep], **QUIET)
    with pytest.raises(OSError, match="it failed"):
        trainer.fit(Failing(), loader())
    assert type(trainer.fit_loop.epoch_loop.automatic_optimization).__module__.startswith("pytorch_lightning")
    for callbacks_of_it in ([multistep], []):
        trainer = Trainer(max_epochs=2, callbacks=callbacks_of_it, **QUIET)
        torch.manual_seed(1)
        module = Classifier()
        trainer.fit(module, loader(shuffle=False))
        ends.append([parameter.norm().item() for parameter in module.parameters()])
    assert ends[0] == ends[1]


def test_an_engine_is_one_of_four():
    with pytest.raises(ValueError, match="engine 'quick' is not known; use one of auto, fused, eager, lightning"):
        MultiStep("quick")


def test_the_trainer_is_afterwards_what_it_was():
    found = train(partial(Classifier), "eager", data=partial(loader, 3 * SIZE))
    loop = found.trainer.fit_loop.epoch_loop
    assert type(loop.automatic_optimization).__module__.startswith("pytorch_lightning")
    assert "advance" not in vars(loop)
    assert "log" not in vars(found.module)


def test_two_trainings_with_one_callback_follow_each_other():
    multistep = MultiStep("eager")
    for _ in range(2):
        found = train(Classifier, None, callbacks=[multistep])
        assert multistep.engine_used == "eager"
        assert found.trainer.global_step == 60


def test_numbers_in_the_place_of_tuples_are_one_line():
    callback = Callback()
    callback.update_calls = (20,)
    with pytest.raises(TypeError, match=r"Callback.update_calls is \(20,\); each item must be a tuple"):
        train(Classifier, "auto", callbacks=[callback])
