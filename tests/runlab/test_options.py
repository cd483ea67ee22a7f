"""Options as they are typed: what a run is named by, and how short they can be."""

import pytest

from runlab._options import shortened_options, words_for

GROUPS, PLACES = ("model", "data"), ("data.corpus",)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("", ""),
        ("--trainer.max_steps 9 --data.corpus a.txt", ""),
        ("--model.n_hidden 300 --model.optimizer.lr=0.05", "n_hidden=300 lr=0.05"),
        ("--model MLP --model.n_hidden=3 --model.n_hidden 4", "model=MLP n_hidden=4"),
        ("--model.optimizer.lr 1 --model.lr_scheduler.lr 2", "optimizer.lr=1 lr_scheduler.lr=2"),
        ("--model.residual --data.block_size 5", "residual block_size=5"),
    ],
)
def test_a_run_is_named_by_what_is_typed_of_its_recipe(typed, name):
    assert words_for(typed.split(), GROUPS, PLACES) == name


def test_what_no_folder_can_be_called_is_replaced_and_told_apart():
    names = {words_for(["--model.activation", value], GROUPS) for value in ("a/b", "a:b", "a b", "x" * 300, "x" * 301)}
    assert len(names) == 5
    assert all(len(name) <= 60 and not {*name} & {*"/:"} for name in names)


def test_options_are_told_apart_by_as_few_words_as_that_takes():
    assert shortened_options(["a.b.lr", "a.c.lr", "a.n"]) == ["b.lr", "c.lr", "n"]
