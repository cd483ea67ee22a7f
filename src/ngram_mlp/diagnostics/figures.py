"""The notebooks' plots in one style, drawn without a display."""

import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 10,
    "axes.titley": 1.0,  # where it is anyhow; looking for a place takes a sixth of the drawing
    "text.hinting": "no_hinting",
    "axes.labelsize": 9,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 8),
}
BINS = 60
ROWS = 64  # as many of a mask are told apart in its panel
DPI = 80


@matplotlib.rc_context(STYLE)
def draw(figure: Figure) -> tuple[bytes, int, int]:
    """A figure as PNG, with its height and width in pixels."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box stands for it
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    png = BytesIO()
    Image.fromarray(pixels).save(png, "png", compress_level=1)
    return png.getvalue(), *pixels.shape[:2]


@matplotlib.rc_context(STYLE)
def loss_figure(losses: npt.NDArray[np.float32]) -> Figure:
    """The loss of every update, and log10 of its mean over a two-hundredth part of the run, over updates."""
    figure, (left, right) = figure_with_panels(2, "training loss", width=10)
    part = max(1, len(losses) // 200)
    whole = losses[: len(losses) // part * part].reshape(-1, part)
    x, mean = np.arange(len(whole)) * part, whole.mean(1)
    left.fill_between(x, whole.min(1), whole.max(1), alpha=0.3, linewidth=0, label="all updates")
    left.plot(x, mean, linewidth=1, label=f"mean of {part:,}")
    left.set(xlabel="update", ylabel="cross-entropy in nats")
    left.legend()
    right.plot(x, np.log10(mean), linewidth=1)
    right.set(xlabel="update", ylabel=f"log10 of the mean of {part:,}")
    return figure


@matplotlib.rc_context(STYLE)
def distributions_figure(title: str, unit: str, panels: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """By heading and name, the density of a tensor's finite values; `unit` is the name of the quantity."""
    figure, axes = figure_with_panels(len(panels), title)
    for axis, (heading, tensors) in zip(axes, panels.items(), strict=True):
        for color, (name, tensor) in zip(_colors(len(tensors)), tensors.items(), strict=True):
            x = tensor.detach().float().cpu().flatten().numpy()
            x = x[np.isfinite(x)]
            if len(x):
                density, edges = np.histogram(x, BINS, density=True)
                axis.plot((edges[1:] + edges[:-1]) / 2, density, color=color, label=f"{name} (std {x.std():.2g})")
        axis.set(title=heading, xlabel=unit, ylabel="density")
        axis.legend()
    return figure


@matplotlib.rc_context(STYLE)
def saturation_figure(panels: Mapping[str, Tensor]) -> Figure:
    """Which cells are saturated (white), by heading a mask (B, ..., n), of which each row of units is an example.

    A white column is a dead unit. Of many examples the first are drawn; the numbers are those of all.
    """
    figure, axes = figure_with_panels(len(panels), "saturated cells (white)", width=10, height=1.8, columns=1)
    for axis, (heading, mask) in zip(axes, panels.items(), strict=True):
        cells = mask.reshape(-1, mask.shape[-1]).cpu().numpy()
        axis.imshow(cells[:ROWS], cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        title = f"{heading}: {cells.mean():.1%} saturated, {cells.all(0).sum()} dead units"
        title += f"; {ROWS} of {len(cells):,} examples" if len(cells) > ROWS else ""
        axis.set(title=title, xlabel="unit", ylabel="example")
        axis.grid(visible=False)
    return figure


@matplotlib.rc_context(STYLE)
def update_ratio_figure(histories: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """By weight, a curve of (update, log10 of std(update) / std(weight)), with the line of 1e-3."""
    figure, (axis,) = figure_with_panels(1, "update to data ratio", width=9)
    figure.subplots_adjust(right=0.75)
    for color, (name, points) in zip(_colors(len(histories)), histories.items(), strict=True):
        axis.plot([u for u, _ in points], [r for _, r in points], ".-", color=color, linewidth=1, label=name)
    axis.axhline(-3, color="black", linewidth=1, linestyle="--", label="1e-3")
    axis.set(xlabel="update", ylabel="log10(std of update / std of weight)")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@matplotlib.rc_context(STYLE)
def embedding_figure(embedding: Tensor, labels: Sequence[str]) -> Figure:
    """The rows (n, n_embd) of an embedding as labelled points: their two dimensions, or two principal axes."""
    rows = embedding.detach().float().cpu().numpy()
    names, explained = ("dimension 1", "dimension 2"), ""
    if rows.shape[1] == 1:
        rows = np.hstack([rows, np.zeros_like(rows)])
    elif rows.shape[1] > 2:
        centered = rows - rows.mean(0)
        _, spread, axes = np.linalg.svd(centered, full_matrices=False)
        rows, names = centered @ axes[:2].T, ("first principal axis", "second principal axis")
        explained = f" ({(spread[:2] ** 2).sum() / max((spread**2).sum(), 1e-30):.0%} of the variance)"
    figure, (axis,) = figure_with_panels(1, f"embedding of the characters{explained}", width=6, height=6)
    axis.scatter(rows[:, 0], rows[:, 1], s=220, alpha=0.35, linewidths=0)
    for (x, y), label in zip(rows, labels, strict=True):
        axis.text(x, y, label, ha="center", va="center", fontsize=9, parse_math=False)
    axis.set(xlabel=names[0], ylabel=names[1])
    return figure


def figure_with_panels(
    count: int, title: str, width: int = 0, height: float = 3.6, columns: int = 9
) -> tuple[Figure, list[Any]]:
    """A titled figure with so many axes in at most so many columns; its width and the height of a row in inches."""
    columns = min(count, columns)
    rows = -(-count // columns)
    size = (width or 5 * columns, 0.5 + height * rows)
    figure = Figure(figsize=size, dpi=DPI)
    figure.suptitle(title, fontsize=11, y=1 - 0.08 / size[1])
    # Fixed margins in inches: matplotlib's automatic layout takes as long as the drawing.
    x, y = 1 / size[0], 1 / size[1]
    figure.subplots_adjust(left=0.75 * x, right=1 - 0.15 * x, bottom=0.55 * y, top=1 - 0.65 * y, hspace=1.25 / height)
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
    for axis in axes:
        axis.locator_params(nbins=5)
    return figure, axes


def _colors(count: int) -> list[Any]:
    """So many colors, from dark to light with the depth."""
    return [matplotlib.colormaps["viridis"](0.85 * i / max(1, count - 1)) for i in range(count)]
