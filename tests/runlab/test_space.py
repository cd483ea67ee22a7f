import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from runlab import UserError
from runlab.many._space import from_words, read_space, read_values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50..400", IntDistribution(50, 400)),
        ("50..400 step 50", IntDistribution(50, 400, step=50)),
        ("1..1000 log", IntDistribution(1, 1000, log=True)),
        ("-3..-1", IntDistribution(-3, -1)),
        ("0.01..1", FloatDistribution(0.01, 1)),
        ("0.01..1 log", FloatDistribution(0.01, 1, log=True)),
        ("1e-4..1e-1 log", FloatDistribution(1e-4, 1e-1, log=True)),
        ("0..0.3 step 0.1", FloatDistribution(0, 0.3, step=0.1)),
        (".5..1.", FloatDistribution(0.5, 1)),
        ("Tanh,ReLU", CategoricalDistribution(["Tanh", "ReLU"])),
        ("[1,2],[3]", CategoricalDistribution(["[1,2]", "[3]"])),
        ("normal * 0.1, kaiming", CategoricalDistribution(["normal * 0.1", "kaiming"])),
        (
            [1, 0.5, True, None, "a", [1], {"b": 2}],
            CategoricalDistribution(["1", "0.5", "true", "null", "a", "[1]", '{"b": 2}']),
        ),
    ],
)
def test_values_are_ranges_or_choices(text, expected):
    assert read_values(text, "") == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "give LOW..HIGH"),
        ("5", "needs at least two different values, none of them empty"),
        ("a,a", "needs at least two different values, none of them empty"),
        ("a,", "needs at least two different values, none of them empty"),
        ("5..5", "the range is empty"),
        ("5..1", "the range is empty"),
        ("0..1 log", "a logarithm needs numbers above 0"),
        ("1..x", "give LOW..HIGH"),
        ("1..2 stepped", "give LOW..HIGH"),
        ("1..10 step 4", "the range 1 to 10 cannot be divided into steps of 4"),
        ("1..10 step -3", "cannot be divided into steps of -3"),
        ("1..10 step 0", "cannot be divided into steps of 0"),
        (None, "give LOW..HIGH"),
        ({"low": 1}, "give LOW..HIGH"),
    ],
)
def test_what_is_no_space_is_refused(text, told):
    with pytest.raises(UserError, match=told):
        read_values(text, "model.n_hidden=...")


def test_a_space_is_sorted_so_that_a_class_comes_before_its_arguments():
    space = from_words(["--data.block_size=2..4", "model.x=A=1,B=2"])
    space |= {"model.optimizer.lr": "0.01..1 log", "model.optimizer": ["SGD", "Adam"]}
    assert [axis.option for axis in read_space(space)] == [
        "data.block_size",
        "model.optimizer",
        "model.optimizer.lr",
        "model.x",
    ]
    assert read_space(space)[3].words("A=1") == ("--model.x", "A=1")
    assert read_space({"a.b": "0.1..0.3 step 0.1"})[0].grid == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nothing to search; "),
        (["model.n_hidden"], "give LOW..HIGH"),
        (["=1..2"], "give OPTION=VALUES"),
        (["a=1..2", "a=1..3"], "a: given twice"),
    ],
)
def test_mistakes_in_a_space_are_one_line(words, told):
    with pytest.raises(UserError, match=told) as error:
        read_space(from_words(words))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("described", ["2..9", "0.1..0.7 step 0.2", "1e-3..1.0 log", "a,b"])
def test_a_trial_takes_a_value_of_the_axis(described):
    (axis,) = read_space({"x": described})
    trial = optuna.create_study().ask()
    axis.suggest(trial)
    assert trial.distributions == {"x": axis.distribution}
