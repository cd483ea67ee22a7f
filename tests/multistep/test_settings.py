"""Options, callbacks, schedules, data and changes while training do what they do in ordinary Lightning."""

import pytest

from multistep import EngineMismatchError
from tests.multistep import later
from tests.multistep.cases import SETTINGS
from tests.multistep.settings import EAGER, FUSED, HERE, LIGHTNING, Rows
from tests.multistep.training import assert_same, train

# What shares its compiled code with others, or is one of its kind, runs always; the rest is slow.
LONG = (
    "a dataclass that derives more",
    "a precision of one epoch on",
    "clipping by value",
    "an average by a formula of one's own",
    "a change of space",
    "a dataclass",
    "sizes in turn",
    "a constant that changes",
    "validation where accumulation is not done",
    "two schedules",
    "a change of clip",
    "a change of plain",
    "a further parameter group",
    "a parameter that is replaced",
    "a change at every epoch",
    "64 bits",
    "EMAWeightAveraging of accumulated updates",
    "EMAWeightAveraging at times",
    "a change of activation",
    "a change of decay",
    "a change of dropout",
    "a change of mode",
    "a change of plain by data",
    "a change of table",
    "a named tuple",
    "a rate that falls with accumulation",
    "several loaders",
    "parameter groups",
    "a schedule of one's own",
    "freezing",
    "a further group between epochs of one minibatch",
    "a renewed table between epochs of one minibatch",
    "a change between validations of one minibatch",
    "StochasticWeightAveraging",
    "a mapping",
    "a rate by a function of the number",
    "a loader that draws",
    "clipping by norm",
    "a dataset with noise and dropout",
    "a sampler that draws and dropout",
    "a batch sampler that draws and dropout",
    "a loader that draws from the default generator and dropout",
    "data that change what the step reads",
    "a level of a logger",
    "a change of a metric's attribute",
    "a buffer that is set late",
    "items with other keys",
    "data of another precision",
    "a rate by weights",
    "freezing between epochs of one minibatch",
    "accumulation that ends with an odd minibatch",
    "a change at the end",
    "parameters that are thawed",
    "a schedule that appends to the module's list",
    "a schedule that damps the momentum",
    "a schedule that drops the momentum",
    "a schedule that sets an attribute of the optimizer",
    "a callback that finds gradients among others",
    "a container that counts its visits, asked for its length",
    "a metric that changes a dataset",
    "a hook that goes back again",
    "a window that is zero at first",
    "an infinite value that is shrunk",
    "a value whose square is infinite",
    "a rate of 0",
    "a callback of Lightning's by gradients",
    "a change of what an enum holds",
    "a change when a checkpoint is saved",
    "a rate by gradients",
    "data that reach the module by an iterator",
    "an epoch's hook, wrapped",
    "a weight for all",
    "an object of a class of one's own",
)


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
    "name",
    [  # of those that `auto` leaves to eager, it is seen below; the other files' deceive compiled code alone
        pytest.param(name, marks=[pytest.mark.slow] * (setting.engine == EAGER or name not in HERE))
        for name, setting in SETTINGS.items()
        if setting.engine != LIGHTNING
    ],
)
def test_eager_has_the_bits_and_the_logged_rows_of_ordinary_training(name):
    (ordinary, expected), (found, rows) = run(name, None), run(name, EAGER)
    assert found.multistep.engine_used == EAGER
    assert_same(found, ordinary, exactly=True)
    assert_same_rows(rows, expected, exactly=True)


@pytest.mark.usefixtures("always_compile")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in SETTINGS])
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
