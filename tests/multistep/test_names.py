"""Every optimizer and every schedule that torch has."""

import inspect
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.optim import Optimizer, lr_scheduler

from multistep._schedules import upcoming_rates
from tests.multistep.settings import Scheduled, momentum
from tests.multistep.training import Classifier, assert_same, train

OPTIMIZERS = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if inspect.isclass(cls) and issubclass(cls, Optimizer) and cls is not Optimizer
}
VARIANTS = {
    "SGD with Nesterov and decay": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "SGD with dampening": partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.3),
    "SGD uphill": partial(torch.optim.SGD, lr=0.01, maximize=True),
    "SGD with a tensor as rate": partial(torch.optim.SGD, lr=torch.tensor(1e-2)),
    "Adam with amsgrad": partial(torch.optim.Adam, amsgrad=True),
    "Adam with foreach": partial(torch.optim.Adam, foreach=True),
    "Adam fused": partial(torch.optim.Adam, fused=True),
    "AdamW with decay": partial(torch.optim.AdamW, weight_decay=0.1),
    "RMSprop with momentum": partial(torch.optim.RMSprop, momentum=0.9, centered=True),
    "NAdam with decay": partial(torch.optim.NAdam, weight_decay=0.1, decoupled_weight_decay=True),
    "Adagrad with decay": partial(torch.optim.Adagrad, lr_decay=0.1, initial_accumulator_value=0.1),
}
# Muon wants matrices alone, SparseAdam sparse gradients.
NOT_FOR_THIS = {"Muon", "SparseAdam"}
ENGINES = {"Adafactor": "eager", "LBFGS": "lightning"}
ALWAYS = ("Adam", "Adafactor")
MADE = {**{name: cls for name, cls in OPTIMIZERS.items() if name not in NOT_FOR_THIS}, **VARIANTS}


@pytest.mark.usefixtures("always_compile")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in ALWAYS else [pytest.mark.slow]) for n in MADE])
def test_every_optimizer_ends_where_it_ends_in_ordinary_training(name):
    ordinary = train(partial(Classifier, MADE[name]), None)
    found = train(partial(Classifier, MADE[name]), "auto")
    assert found.multistep.engine_used == ENGINES.get(name, "fused"), found.multistep.reason
    assert_same(found, ordinary, exactly=found.multistep.engine_used != "fused")


SCHEDULES = {
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ConstantLR": lr_scheduler.ConstantLR,
    "CosineAnnealingLR": partial(lr_scheduler.CosineAnnealingLR, T_max=20),
    "CosineAnnealingWarmRestarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=7),
    "CyclicLR": partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=5),
    "ExponentialLR": partial(lr_scheduler.ExponentialLR, gamma=0.97),
    "LambdaLR": partial(lr_scheduler.LambdaLR, lr_lambda=lambda n: 1 / (1 + n)),
    "LinearLR": lr_scheduler.LinearLR,
    "MultiStepLR": partial(lr_scheduler.MultiStepLR, milestones=[5, 11, 30]),
    "MultiplicativeLR": partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda n: 0.97),
    "OneCycleLR": partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=60),
    "PolynomialLR": lr_scheduler.PolynomialLR,
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[9]
    ),
    "StepLR": partial(lr_scheduler.StepLR, step_size=7),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.01),
}
SHORT = {"StepLR", "SequentialLR", "CyclicLR"}
CYCLE_THE_MOMENTUM = {"CyclicLR", "OneCycleLR"}


def test_no_schedule_of_torch_is_left_out():
    names = {
        name
        for name, cls in vars(lr_scheduler).items()
        if inspect.isclass(cls) and issubclass(cls, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert names - {"LRScheduler", "ReduceLROnPlateau"} <= set(SCHEDULES)


@pytest.mark.usefixtures("always_compile")
@pytest.mark.parametrize("engine", ["eager", "auto"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in SHORT)) for n in SCHEDULES])
def test_every_schedule_ends_where_it_ends_in_ordinary_training(name, engine):
    make = partial(Scheduled, SCHEDULES[name], momentum, interval="step")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # torch's own about its own
        ordinary, found = train(make, None), train(make, engine)
    cycles = name in CYCLE_THE_MOMENTUM
    assert found.multistep.engine_used == ("eager" if cycles or engine == "eager" else "fused"), found.multistep.reason
    assert_same(found, ordinary, exactly=found.multistep.engine_used == "eager")
    rates = [[group["lr"] for group in each.trainer.optimizers[0].param_groups] for each in (found, ordinary)]
    assert rates[0] == rates[1]


@pytest.mark.parametrize("frequency", [1, 3])
@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in CYCLE_THE_MOMENTUM])
def test_rates_to_come_are_those_of_stepping(name, frequency):
    class Config:
        interval, reduce_on_plateau = "step", False

        def __init__(self, scheduler):
            self.scheduler, self.frequency = scheduler, frequency

    class Progress:
        def __init__(self):
            self.total, self.current = SimpleNamespace(ready=0, completed=0), SimpleNamespace(ready=0, completed=0)

        def increment_ready(self):
            self.total.ready += 1

        def increment_completed(self):
            self.total.completed += 1

    def make():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        optimizer.step()
        return optimizer, SCHEDULES[name](optimizer)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        (one, stepped), (other, scheduler) = make(), make()
        expected = []
        for n in range(1, 41):
            expected.append(one.param_groups[0]["lr"])
            if n % frequency == 0:
                stepped.step()
        progress = Progress()
        parts = [
            upcoming_rates(other, [Config(scheduler)], first, [True] * count, progress)
            for first, count in ((0, 1), (1, 15), (16, 24))
        ]
    assert torch.cat(parts).flatten().tolist() == pytest.approx(expected, rel=1e-12)
    assert other.param_groups[0]["lr"] == pytest.approx(one.param_groups[0]["lr"], rel=1e-12)
    assert progress.total.completed == progress.total.ready == 40 // frequency
