"""Draws the notebooks' plots."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runlab import CLOSE, PARTS, Losses, figure_with_panels, legend_below, plain_ticks, smoothed

if TYPE_CHECKING:  # the process that draws imports neither torch nor Lightning
    from matplotlib.figure import Figure

    from ngram_mlp.diagnostics.statistics import Cells, Density

FREQUENT = 8  # the scale is logarithmic if a density exceeds the median this many times
FEW, FEW_WORDS = 150, 80  # labels that fit into a figure of the embedding
LONGEST = 8  # the longest label of a single character, which may be escaped


def loss_figure(losses: Losses, validation: Sequence[tuple[int, float]] = (), drops: Sequence[int] = ()) -> "Figure":
    """Draws the smoothed training loss, a band of the middle 80 % of the minibatches, and the validation loss.

    The upper panel shows the whole run on logarithmic axes, the lower one all but its first tenth.

    Args:
        losses: the loss of every update.
        validation: (updates done, loss).
        drops: the updates from which on the learning rate was lower.
    """
    updates = len(losses)
    figure, axes = figure_with_panels(2, "loss", height=2.5, columns=1)
    spaced = (np.geomspace(1, updates + 1, PARTS) - 1, np.linspace(updates // 10, updates, PARTS))
    for axis, edges in zip(axes, spaced, strict=True):
        x, mean, low, high = smoothed(losses, np.unique(edges.astype(int)))
        axis.fill_between(x, low, high, alpha=0.25, linewidth=0, label="80 % of the minibatches")
        axis.plot(x, mean, "-" if len(x) > 9 else ".-", linewidth=1.5, label="train")
        seen = [(update, loss) for update, loss in validation if update >= x[0]]
        axis.plot(*np.reshape(seen, (-1, 2)).T, ".-", color="C1", linewidth=1, markersize=5, label="val")
        for drop in drops:
            label = "lower learning rate" if drop == drops[0] else None
            axis.axvline(drop, color="black", linewidth=1, linestyle=":", label=label)
        axis.set_ylabel("nats per token")
    whole, late = axes
    whole.set_xscale("log")
    whole.set_yscale("log")
    plain_ticks(whole.xaxis)
    plain_ticks(whole.yaxis, CLOSE)
    whole.legend(loc="upper right")
    late.set_xlabel("update")
    return figure


def distributions_figure(title: str, unit: str, panels: Mapping[str, "Mapping[str, Density]"]) -> "Figure":
    """Draws the densities of tensors by heading and name, on the same scale; `unit` labels the x-axis.

    The scale is logarithmic if some values are much more frequent than most. The legend shows the standard deviations
    under the first and the last heading.
    """
    names = list(dict.fromkeys(name for tensors in panels.values() for name in tensors))
    every = np.concatenate([tensor["values"] for tensors in panels.values() for tensor in tensors.values()])
    logarithmic = every.max(initial=0) > FREQUENT * np.median(every[every > 0]) if every.any() else False
    ends = [*panels][:: max(1, len(panels) - 1)]  # the first and the last
    figure, axes = figure_with_panels(len(panels), title, height=1.4, columns=1, legend=len(names))
    for axis, (heading, tensors) in zip(axes, panels.items(), strict=True):
        for color, name in zip(_colors(len(names)), names, strict=True):
            if name in tensors and len(tensors[name]["values"]):
                edges, values = tensors[name]["edges"], tensors[name]["values"]
                stds = " → ".join(dict.fromkeys(f"{panels[place][name]['std']:.2g}" for place in ends))
                axis.plot((edges[1:] + edges[:-1]) / 2, values, color=color, linewidth=1, label=f"{name}  {stds}")
        axis.set(title=heading, ylabel="density")
        if logarithmic:
            axis.set_yscale("log", nonpositive="mask")
            plain_ticks(axis.yaxis)
    limits = [(axis.get_xlim(), axis.get_ylim()) for axis in axes]
    (left, right), (low, high) = (
        (min(a for a, _ in each), max(b for _, b in each)) for each in zip(*limits, strict=True)
    )
    low = low if logarithmic else 0
    for axis in axes:
        axis.set(xlim=(left, right), ylim=(low, high))
        axis.tick_params(labelbottom=axis is axes[-1])
        if logarithmic and high < 20 * low:
            plain_ticks(axis.yaxis, (1, 2, 5))
    axes[-1].set_xlabel(unit)
    legend_below(figure, axes[0], "standard deviations")
    return figure


def saturation_figure(panels: Mapping[str, "Mapping[str, Cells]"]) -> "Figure":
    """Draws the saturated cells in white: a column of panels for each heading, a row for each layer.

    In a panel, each row is an example and each column a unit: a white column is a dead unit.
    """
    names = list(dict.fromkeys(name for layers in panels.values() for name in layers))
    height = 0.75 if len(names) > 3 else 1.2
    figure, axes = figure_with_panels(
        len(panels) * len(names), "saturated cells (white)", height=height, columns=len(panels)
    )
    tall = figure.get_figheight()
    figure.subplots_adjust(hspace=0.75, wspace=0.08, left=0.08, top=1 - 0.85 / tall, bottom=0.35 / tall)
    for place, axis in enumerate(axes):
        name, (heading, layers) = names[place // len(panels)], list(panels.items())[place % len(panels)]
        shown = layers[name]
        axis.imshow(np.asarray(shown["rows"]), cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        dead = f", {shown['dead']} dead" if shown["dead"] else ""
        above = f"{heading}\n" if place < len(panels) else ""
        axis.set_title(f"{above}{name}: {shown['share']:.1%}{dead}", fontsize=10)
        axis.grid(visible=False)
        axis.set(xticks=[], yticks=[])
        if place >= len(axes) - len(panels):
            axis.set_xlabel("unit", fontsize=9)
        if place % len(panels) == 0:
            axis.set_ylabel("example", fontsize=9)
    return figure


def update_ratio_figure(histories: Mapping[str, Sequence[tuple[int, float]]]) -> "Figure":
    """Draws for each weight a curve of (update, log10 of std(update) / std(weight)), and the line of 1e-3."""
    figure, (axis,) = figure_with_panels(1, "update to data ratio", height=3.2, legend=len(histories))
    for color, (name, points) in zip(_colors(len(histories)), histories.items(), strict=True):
        line = ".-" if len(points) > 2 else "."  # two points make no curve
        axis.plot([u for u, _ in points], [r for _, r in points], line, color=color, linewidth=1, label=name)
    axis.axhline(-3, color="black", linewidth=1, linestyle="--", label="1e-3")
    axis.set(xlabel="update", ylabel="log10(std of update / of weight)")
    legend_below(figure, axis)
    return figure


def embedding_figure(rows: npt.NDArray[np.float32], labels: Sequence[str]) -> "Figure":
    """Draws an embedding's rows (n, n_embd) as labelled points: their two dimensions, or two principal axes.

    Labels are moved apart if they would overlap; of many, only some are shown. The colors distinguish vowels, other
    tokens and the boundary, which is the first row.
    """
    names, explained = ("dimension 1", "dimension 2"), ""
    if rows.shape[1] == 1:
        rows = np.hstack([rows, np.zeros_like(rows)])
    elif rows.shape[1] > 2:
        centered = rows - rows.mean(0)
        _, spread, axes = np.linalg.svd(centered, full_matrices=False)
        rows, names = centered @ axes[:2].T, ("first principal axis", "second principal axis")
        explained = f" ({(spread[:2] ** 2).sum() / max((spread**2).sum(), 1e-30):.0%} of the variance)"
    figure, (axis,) = figure_with_panels(1, f"embedding{explained}", height=4.4, legend=1)
    words = any(len(label) > LONGEST for label in labels[1:])
    kinds = [_kind(n, "" if words else label) for n, label in enumerate(labels)]
    most = FEW_WORDS if words else FEW
    # More labels overlap wherever they are.
    places = apart(rows[:most], 0.055) if words or len(labels) <= FEW else rows
    for kind, color in dict.fromkeys(kinds):
        chosen = [n for n, own in enumerate(kinds) if own[0] == kind]
        axis.plot(*rows[chosen].T, "o", color=color, markersize=1 if words else 3, label=kind)
        for n in [n for n in chosen if n < len(places)][:most]:
            axis.plot(*np.stack([rows[n], places[n]]).T, color=color, linewidth=0.5)
            box = {"facecolor": "white", "edgecolor": color, "boxstyle": "circle,pad=0.15", "linewidth": 0.8}
            style = {"fontsize": "x-small", "color": "C0"} if words else {"color": color, "bbox": box}
            axis.text(*places[n], labels[n], ha="center", va="center", parse_math=False, **style)
    axis.set(xlabel=names[0], ylabel=names[1])
    legend_below(figure, axis)
    return figure


def _kind(n: int, label: str) -> tuple[str, str]:
    """Returns the kind of the token with id n, and its color; an accented vowel is a vowel."""
    if n == 0:
        return "boundary", "C3"
    is_vowel = len(label) == 1 and unicodedata.normalize("NFD", label)[0].lower() in "aeiou"
    return ("vowel", "C0") if is_vowel else ("other", "0.45")


def apart(points: npt.NDArray[np.float32], distance: float) -> npt.NDArray[np.float64]:
    """Returns points (n, 2) moved, at most 100 times, until none are closer than a fraction of the picture's width."""
    size = np.maximum(np.ptp(points, axis=0), 1e-12)
    moved = points / size + 1e-6 * np.arange(len(points))[:, None]  # so that equal points have a direction
    for _ in range(100):
        between = moved[:, None] - moved
        lengths = np.linalg.norm(between, axis=2)
        push = np.where((lengths > 0) & (lengths < distance), distance - lengths, 0) / np.maximum(lengths, 1e-9)
        if not push.any():
            break
        moved = moved + (between * push[..., None]).sum(1) / 2
    return np.asarray(moved * size)


def _colors(count: int) -> Iterable[Any]:
    """Returns this many colors, from dark to light with depth."""
    import matplotlib

    return [matplotlib.colormaps["viridis"](0.85 * i / max(1, count - 1)) for i in range(count)]
