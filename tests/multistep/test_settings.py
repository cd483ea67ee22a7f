"""Options, callbacks, schedules, data and changes while training do what they do in ordinary Lightning."""

import pytest

from multistep import EngineMismatchError
from tests.multistep import later
from tests.multistep.cases import SETTINGS
from tests.multistep.settings import EAGER, FUSED, LIGHTNING, Rows
from tests.multistep.training import assert_same, train

# One of each kind; the others, which take minutes, are slow. What Lightning trains alone runs always.
KINDS = (
    "GradientAccumulationScheduler",
    "accumulation, clipping and momentum",
    "a change of rate",
    "a rate that falls at every update",
    "a rate that falls to 0",
    "an infinite loss",
    "a list of a metric",
    "a dataset that seldom draws and dropout",
    "a loader that draws for each minibatch",
    "validation",
    "a callback that finds gradients by a getter",
    "a count in a name like Python's",
    "a metric that appends to a file",
    "a scale by identity",
    "a schedule that counts",
    "a tensor that a function encloses",
    "hooks of saved tensors",
)


def quick(name, setting):
    return [] if name in KINDS or setting.engine == LIGHTNING else [pytest.mark.slow]


def run(name, engine):
    setting, rows = SETTINGS[name], Rows()
    options = {"logger": rows, "log_every_n_steps": 5, **setting.options}
    return train(setting.make, engine, setting.data, setting.callbacks(), **options), rows.rows


def assert_same_rows(rows, expected, exactly):
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    for (step, name, value), (_, _, other) in zip(rows, expected, strict=True):
        assert value == pytest.approx(other, rel=0 if exactly else 2e-3, abs=0 if exactly else 2e-5, nan_ok=True), (
            step,
            name,
        )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=quick(name, s)) for name, s in SETTINGS.items() if s.engine != LIGHTNING]
)
def test_eager_has_the_bits_and_the_logged_rows_of_ordinary_training(name):
    (ordinary, expected), (found, rows) = run(name, None), run(name, EAGER)
    assert found.multistep.engine_used == EAGER
    assert_same(found, ordinary, exactly=True)
    assert_same_rows(rows, expected, exactly=True)


@pytest.mark.usefixtures("always_compile")
@pytest.mark.parametrize("name", [pytest.param(name, marks=quick(name, s)) for name, s in SETTINGS.items()])
def test_auto_agrees_with_ordinary_training(name):
    (ordinary, expected), (found, rows) = run(name, None), run(name, "auto")
    engine = SETTINGS[name].engine
    assert found.multistep.engine_used == engine, found.multistep.reason
    fused = engine == FUSED or (found.multistep.reason or "").startswith("after ")
    low = name in ("bf16", "a precision that is changed")
    assert_same(found, ordinary, exactly=not fused, low=low)
    assert_same_rows(rows, expected, exactly=not fused) if not low else None


@pytest.mark.usefixtures("always_compile")
def test_a_metric_that_begins_to_draw_ends_the_run():
    with pytest.raises(EngineMismatchError, match=r"^a metric draws random numbers; use engine eager$"):
        train(lambda: later.Drawn(later.DrawingLater), "auto")
