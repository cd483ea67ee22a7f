"""Odd modules: none is trained in another way than by ordinary Lightning, silently."""

import pytest
import torch

from multistep import EngineUnavailableError
from tests.multistep.cases import ODD
from tests.multistep.odd import EAGER, FUSED, LIGHTNING, SEEN, reset
from tests.multistep.training import assert_same, train

# One of each kind; the others, which take minutes, are slow.
KINDS = (
    "Dropout",
    "BufferAssigned",
    "GradientPenalty",
    "CountingMetric",
    "CounterDeepInAGlobal",
    "ReadsTheEpoch",
    "BranchesOnValues",
    "GradientHook",
    "AugmentsItsBatchInPlace",
    "ComputesWithAMetric",
    "LooksItselfUpById",
    "OptimizerCounts",
    "counts_by_a_generator",
    "counts_and_hands_over",
    "reads_live_weights_by_a_closure",
    "is_perturbed_by_a_global",
)
# What is different in each run.
NOT_COMPARED = {"LogsTheTime": {"time"}}


def those_that_end_by(*engines):
    return [
        pytest.param(name, marks=[] if name in KINDS else [pytest.mark.slow])
        for name, (_, engine) in ODD.items()
        if engine in engines
    ]


def run(name, engine):
    reset()
    found = train(ODD[name][0], engine)
    for metric in NOT_COMPARED.get(name, ()):
        found.trainer.callback_metrics.pop(metric)
    found.trainer.callback_metrics["times"] = torch.tensor(float(len(SEEN)))
    return found


@pytest.fixture(autouse=True)
def as_before():
    reset()
    yield
    reset()


@pytest.mark.usefixtures("always_compile")
@pytest.mark.parametrize("name", those_that_end_by(FUSED))
def test_what_can_be_compiled_agrees_with_ordinary_training(name):
    found = run(name, "auto")
    assert (found.multistep.engine_used, found.multistep.reason) == (FUSED, None)
    assert_same(found, run(name, None), exactly=False)


@pytest.mark.usefixtures("always_compile")
@pytest.mark.parametrize("name", those_that_end_by(EAGER))
def test_what_cannot_be_compiled_has_the_bits_of_ordinary_training_and_one_line_says_why(name):
    found = run(name, "auto")
    assert found.multistep.engine_used == EAGER
    assert found.multistep.reason
    assert "\n" not in found.multistep.reason
    assert_same(found, run(name, None), exactly=True)


@pytest.mark.parametrize("name", those_that_end_by(EAGER))
def test_what_cannot_be_compiled_is_refused_in_one_line_where_fused_is_asked_for(name):
    with pytest.raises(EngineUnavailableError, match=r"^engine fused: .*; use auto or eager$"):
        run(name, FUSED)


@pytest.mark.parametrize("name", [name for name, (_, engine) in ODD.items() if engine == LIGHTNING])
def test_what_wants_every_update_is_trained_by_lightning(name):
    found = run(name, "auto")
    assert found.multistep.engine_used == LIGHTNING
    assert_same(found, run(name, None), exactly=True)
    with pytest.raises(EngineUnavailableError, match=r"^engine eager: .*; use auto or lightning$"):
        run(name, EAGER)


@pytest.mark.parametrize("name", those_that_end_by(FUSED, EAGER))
def test_eager_has_the_bits_of_ordinary_training(name):
    ordinary = run(name, None)
    assert_same(run(name, EAGER), ordinary, exactly=True)
    assert_same(run(name, LIGHTNING), ordinary, exactly=True)
