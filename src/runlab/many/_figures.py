"""Draws the figures of studies and searches, in the style of a run's."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from runlab._drawing import (
    CLOSE,
    PARTS,
    Losses,
    figure_with_panels,
    legend_below,
    literal,
    plain_ticks,
    smoothed,
)

Points = Sequence[tuple[int, float]]


def loss_bands_figure(panels: Mapping[str, Mapping[str, Sequence[Losses]]]) -> Figure:
    """Plots the training loss of recipes over updates: the mean over seeds, in a band from minimum to maximum.

    `panels` holds by heading and recipe the losses of every update for each seed. Each heading is a row: on the left
    the whole run on logarithmic axes, on the right all but its first tenth. Losses are averaged over segments.
    """
    seeds = max(len(seeds) for recipes in panels.values() for seeds in recipes.values())
    title = f"training loss: mean and range over {seeds} seeds" if seeds > 1 else "training loss"
    styles = _styles(recipe for recipes in panels.values() for recipe in recipes)
    figure, axes = figure_with_panels(2 * len(panels), title, width=8.5, height=2.9, columns=2, legend=len(styles))
    figure.subplots_adjust(hspace=0.3, wspace=0.2)
    for place, (heading, recipes) in enumerate(panels.items()):
        whole, late = axes[2 * place : 2 * place + 2]
        for recipe, of_seeds in recipes.items():
            updates = min(map(len, of_seeds))
            spaced = (np.geomspace(1, updates + 1, PARTS) - 1, np.linspace(updates // 10, updates, PARTS // 2))
            for axis, edges in zip((whole, late), spaced, strict=True):
                curves = [smoothed(losses, np.unique(edges.astype(int)))[:2] for losses in of_seeds]
                x, means = curves[0][0], np.stack([mean for _, mean in curves])
                axis.fill_between(x, means.min(0), means.max(0), color=styles[recipe]["color"], alpha=0.2, linewidth=0)
                axis.plot(x, means.mean(0), **styles[recipe], linewidth=1.2, label=literal(recipe))
        heading = literal(heading)
        whole.set(xscale="log", yscale="log", ylabel="nats per token", title=heading)
        plain_ticks(whole.xaxis)
        plain_ticks(whole.yaxis, CLOSE)
        late.set(title=f"{heading}, after the first tenth" if heading else "after the first tenth")
    for axis in axes[-2:]:
        axis.set_xlabel("update")
    legend_below(figure, axes[-1])
    return figure


def points_figure(panels: Mapping[str, Mapping[str, Sequence[float]]], unit: str) -> Figure:
    """Plots for each heading and recipe a point per seed and a line at the mean; `unit` names the values."""
    rows = [(heading, recipe, seeds) for heading, recipes in panels.items() for recipe, seeds in recipes.items()]
    figure, (axis,) = figure_with_panels(1, f"{unit}: each seed, and the mean", width=8, height=0.6 + 0.2 * len(rows))
    labels = [literal(f"{recipe}  {heading}".strip()) for heading, recipe, _ in rows]
    figure.subplots_adjust(left=min(0.5, 0.03 + 0.0115 * max(map(len, labels))))
    styles = _styles(recipe for _, recipe, _ in rows)
    for y, (heading, recipe, seeds) in enumerate(rows):
        color = styles[recipe]["color"]
        axis.plot(seeds, [y] * len(seeds), "o", color=color, alpha=0.6, markersize=5)
        axis.plot([float(np.mean(seeds))] * 2, [y - 0.35, y + 0.35], color=color, linewidth=1.5)
        if y and rows[y - 1][0] != heading:
            axis.axhline(y - 0.5, color="black", linewidth=0.5)
    axis.set_yticks(range(len(rows)), labels)
    axis.set(xlabel=f"{unit} in nats", ylim=(len(rows) - 0.5, -0.5))
    return figure


def history_figure(
    metric: str, ended: Sequence[tuple[int, float]], pruned: Sequence[tuple[int, float]], best: Any
) -> Figure:
    """Plots the value of every trial over its number, and the best so far; `best` is max or min."""
    figure, (axis,) = figure_with_panels(1, f"{metric} by trial", width=9)
    numbers, values = [number for number, _ in ended], [value for _, value in ended]
    axis.plot([n for n, _ in pruned], [v for _, v in pruned], "x", color="0.6", markersize=4, label="when pruned")
    axis.plot(numbers, values, "o", alpha=0.6, markersize=4, label="at the end")
    so_far = [best(values[: place + 1]) for place in range(len(values))]
    axis.plot(numbers, so_far, linewidth=1, drawstyle="steps-post", color="black", label="best so far")
    _cut_off(axis, [*numbers, *(n for n, _ in pruned)], [*values, *(v for _, v in pruned)])
    axis.set(xlabel="trial", ylabel=metric)
    axis.legend()
    return figure


def slices_figure(
    metric: str, values: Mapping[str, Sequence[Any]], logarithmic: set[str], results: Sequence[float]
) -> Figure:
    """Plots for each option the result of every trial over the option's value."""
    columns, title = 2 if len(values) == 4 else min(len(values), 3), f"{metric} by option"
    figure, axes = figure_with_panels(len(values), title, width=0.9 + 2.7 * columns, height=3, columns=columns)
    figure.subplots_adjust(wspace=0.3, hspace=0.4)
    for number, (axis, (option, column)) in enumerate(zip(axes, values.items(), strict=True)):
        if all(isinstance(value, str) for value in column):
            words = sorted(set(column))
            places = [words.index(value) for value in column]
            turned: dict[str, Any] = {}
            labels = [literal(word if len(word) <= 32 else f"{word[:29]}...") for word in words]
            if sum(map(len, labels)) > 24:  # too long to fit side by side
                turned = {"rotation": 20, "ha": "right", "fontsize": 8}
                figure.subplots_adjust(bottom=1 / figure.get_figheight(), hspace=0.6)
            axis.set_xticks(range(len(words)), labels, **turned)
            axis.set_xlim(-0.5, len(words) - 0.5)
        else:
            places = [*column]
            axis.set_xscale("log" if option in logarithmic else "linear")
        axis.plot(places, results, "o", alpha=0.5, markersize=4)
        _cut_off(axis, places, results)
        axis.set(title=option, ylabel="" if number % columns else metric)
    return figure


def importances_figure(importances: Mapping[str, float]) -> Figure:
    """Plots how much of the difference between good trials and others each option explains."""
    figure, (axis,) = figure_with_panels(1, "importance of the options", width=8, height=0.6 + 0.25 * len(importances))
    figure.subplots_adjust(left=0.4)
    axis.barh(range(len(importances)), list(importances.values()), height=0.6)
    axis.set_yticks(range(len(importances)), list(importances))
    axis.set(xlabel="share (PED-ANOVA)", ylim=(len(importances) - 0.5, -0.5))
    return figure


def _cut_off(axis: Any, places: Sequence[Any], results: Sequence[float]) -> None:
    """Marks outliers at the edge with their values, so that one bad trial does not hide all differences."""
    low, middle, high = np.percentile(results, [0, 50, 100])
    reach = 3 * max(np.median(np.abs(np.asarray(results) - middle)), 1e-9)
    low, high = max(low, middle - 3 * reach), min(high, middle + 3 * reach)
    if not low < high:
        return
    bottom, top = low - 0.05 * (high - low), high + 0.05 * (high - low)
    axis.set_ylim(bottom, top)
    for place, result in zip(places, results, strict=True):
        if not bottom <= result <= top:
            mark, edge, inward, side = ("^", top, -6, "top") if result > top else ("v", bottom, 6, "bottom")
            axis.plot([place], [edge], mark, color="C3", markersize=5, clip_on=False)
            text = {"color": "C3", "fontsize": 8, "rotation": 90, "ha": "center", "va": side}
            axis.annotate(f"{result:.4g}", (place, edge), (0, inward), textcoords="offset points", **text)


def _styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns a color and a line style for each name; the line style changes after every ten names."""
    colors, lines = matplotlib.colormaps["tab10"], ("-", "--", ":")
    numbered = enumerate(dict.fromkeys(names))
    return {name: {"color": colors(i % 10), "linestyle": lines[i // 10 % 3]} for i, name in numbered}
