"""Figures of searches: what is on them, and what cannot be."""

import random

import numpy as np
import pytest

from runlab.many._figures import history_figure, loss_bands_figure, slices_figure


@pytest.mark.parametrize("kind", ["history", "slices"])
def test_a_value_that_would_hide_all_others_stands_at_the_edge(kind):
    values = [2.2 + random.Random(n).random() / 10 for n in range(30)] + [2.68]
    if kind == "history":
        figure = history_figure("val/loss", [*enumerate(values)], [(31, 9.5), (32, 2.25)], min)
        far = ["2.68", "9.5"]
    else:
        figure = slices_figure("val/loss", {"n_hidden": [*range(31)]}, set(), values)
        far = ["2.68"]
    (axis,) = figure.axes
    low, high = axis.get_ylim()
    assert low < min(values) < max(values[:30]) < high < 2.68
    assert [note.get_text() for note in axis.texts] == far
    assert all(note.xy[1] == high for note in axis.texts)


def test_every_recipe_is_in_the_legend():
    curve = np.linspace(3, 2, 50, dtype=np.float32)
    figure = loss_bands_figure({"": {"_base": [curve], "other": [curve], "a$b": [curve]}})
    assert [text.get_text().strip() for text in figure.legends[0].get_texts()] == ["_base", "other", "a\\$b"]
