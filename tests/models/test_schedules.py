import math

import pytest
import torch

from ngram_mlp.models.schedules import WarmupCosine
from runlab import UserError


def rates(updates, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = WarmupCosine(optimizer, **options)
    for _ in range(updates):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()


def test_the_rate_rises_linearly_and_falls_along_half_a_cosine():
    found = list(rates(130, warmup=20, total=120, final=0.1))
    expected = [0.4 * (n + 1) / 20 for n in range(20)]
    expected += [0.04 + 0.36 * (1 + math.cos(math.pi * n / 100)) / 2 for n in range(100)]
    assert found == pytest.approx(expected + [0.04] * 10)


def test_it_may_begin_without_a_warm_up():
    assert next(iter(rates(1, warmup=0, total=10))) == 0.4


@pytest.mark.parametrize(("warmup", "total"), [(-1, 10), (10, 10), (0, 0)])
def test_a_warm_up_that_leaves_no_update_is_refused(warmup, total):
    with pytest.raises(UserError, match=f"warmup {warmup}"):
        next(iter(rates(1, warmup=warmup, total=total)))
