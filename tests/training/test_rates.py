import warnings

import pytest
import torch
from torch.optim import lr_scheduler

from ngram_mlp.training.schedules import changes_more_than_the_learning_rate, upcoming_rates

SCHEDULES = {
    "steps": lambda o: lr_scheduler.MultiStepLR(o, [7, 7, 20, 41], 0.5),
    "one step": lambda o: lr_scheduler.StepLR(o, 9, 0.3),
    "constant": lambda o: lr_scheduler.MultiStepLR(o, []),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 50),
    "warm-up": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=10), lr_scheduler.CosineAnnealingLR(o, 40)], [10]
    ),
}


def optimizer():
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    return torch.optim.SGD([{"params": [first]}, {"params": [second], "lr": 3.0}], lr=0.1)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_rates_and_state_are_those_of_stepping_after_every_update(schedule):
    stepped, looked_up = optimizer(), optimizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR itself calls what torch deprecates
        reference, scheduler = schedule(stepped), schedule(looked_up)
        expected = []
        for _ in range(60):
            expected.append([group["lr"] for group in stepped.param_groups])
            stepped.step()
            reference.step()
        found = torch.cat([upcoming_rates(looked_up, scheduler, updates) for updates in (1, 6, 1, 30, 22)])
    assert found.tolist() == expected
    assert [group["lr"] for group in looked_up.param_groups] == [group["lr"] for group in stepped.param_groups]
    plain = {key: value for key, value in reference.state_dict().items() if key != "_schedulers"}
    assert {key: value for key, value in scheduler.state_dict().items() if key != "_schedulers"} == plain


def test_schedules_that_cycle_the_momentum_are_told_apart():
    momentum = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    assert changes_more_than_the_learning_rate(lr_scheduler.OneCycleLR(momentum, 0.1, total_steps=5))
    assert not changes_more_than_the_learning_rate(SCHEDULES["warm-up"](optimizer()))
