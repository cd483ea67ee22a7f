"""Draws the figures of runs and studies in one style, without a display.

By default figures are 500 pixels wide, and legible at the 350 that TensorBoard gives them. Matplotlib is imported when
something is drawn, as an `Artist` draws elsewhere.
"""

import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 11,
    "axes.titley": 1.0,  # its usual place; searching for it takes a sixth of the drawing time
    "text.hinting": "no_hinting",
    "axes.labelsize": 11,
    "legend.columnspacing": 1.0,
    "legend.handlelength": 1.2,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 10),
}
WIDTH = 5.0  # inches
DPI = 100
LINE = 0.13  # inches at the bottom for the name of a run
CLOSE = (1, 1.5, 2, 2.5, 3, 4, 5, 7)  # tick multiples for a short logarithmic axis
PARTS = 80  # number of segments that a curve is averaged over
Losses = npt.NDArray[np.float32]
Picture = tuple[bytes, int, int]  # a PNG, its height and width in pixels


def draw(function: Callable[..., "Figure"], *args: Any, name: str = "") -> Picture:
    """Draws the figure that a function returns for these arguments, with the name of a run in a corner."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box
        figure = function(*args)
        small: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 7, "color": "0.5", "parse_math": False}
        figure.text(0.995, 0.005, name, **small)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    png = BytesIO()
    Image.fromarray(pixels).save(png, "png", compress_level=1)
    return png.getvalue(), *pixels.shape[:2]


def smoothed(losses: Losses, edges: npt.NDArray[np.int_]) -> tuple[npt.NDArray[np.float64], ...]:
    """Returns the middle update (from 1), mean, 10 and 90 % quantiles of the finite losses between each two edges."""
    points = []
    for begin, end in pairwise(edges):
        part = losses[begin:end][np.isfinite(losses[begin:end])]
        numbers = [part.mean(dtype=np.float64), *np.quantile(part, [0.1, 0.9])] if len(part) else [np.nan] * 3
        points.append([(begin + end + 1) / 2, *numbers])
    return tuple(np.reshape(points, (-1, 4)).T)


def literal(name: str) -> str:
    """Returns a name as a label that shows it: matplotlib reads $...$ as mathematics, and hides what begins with _."""
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def plain_ticks(axis: Any, at: Sequence[float] = (1,)) -> None:
    """Labels a logarithmic axis with plain numbers, at these multiples of the powers of ten.

    Matplotlib's own labels and minor ticks take half of the drawing time.
    """
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=at))
    axis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    axis.set_minor_locator(NullLocator())


def figure_with_panels(
    count: int, title: str, width: float = WIDTH, height: float = 3.6, columns: int = 9, legend: int = 0
) -> tuple["Figure", list[Any]]:
    """Returns a titled figure with `count` panels in at most `columns` columns, and the panels' axes.

    `width` and `height` (of a row) are in inches. Below there is room for `legend` names and one more line.
    """
    from matplotlib.figure import Figure

    columns = min(count, columns)
    rows = -(-count // columns)
    room = 0.21 * -(-legend // 2) + 0.25 + LINE if legend else 0
    size = (width, 0.9 + height * rows + room)
    figure = Figure(figsize=size, dpi=DPI)
    figure.suptitle(title, fontsize=12, y=1 - 0.08 / size[1])
    # Fixed margins in inches: matplotlib's automatic layout takes as long as drawing.
    x, y = 1 / size[0], 1 / size[1]
    inside = {"hspace": 0.4 / max(height - 0.4, 0.3) if rows > 1 else 0.0}
    figure.subplots_adjust(left=0.8 * x, right=1 - 0.15 * x, bottom=(0.55 + room) * y, top=1 - 0.55 * y, **inside)
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
    for axis in axes:
        axis.locator_params(nbins=5)
    return figure, axes


def legend_below(figure: "Figure", axis: Any, title: str | None = None) -> None:
    """Puts the legend of one panel below all of them, where `figure_with_panels` has left room."""
    handles, labels = axis.get_legend_handles_labels()
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, LINE / figure.get_figheight())}
    figure.legend(handles, labels, fontsize=9, ncols=2 if len(labels) > 3 or title else 3, title=title, **place)
