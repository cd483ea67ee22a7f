"""Writes the results of a study: files, a table with error bars, figures, and a report."""

import csv
import datetime
import json
import math
import platform
import shlex
import statistics
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from runlab._errors import UserError
from runlab._options import flattened
from runlab.many._plan import SeedRun
from runlab.many._runs import configuration_in, differing
from runlab.many._script import cores

SPLITS = ("train", "val", "test")
DIFFERENCE = "val minus the first (95 %)"
HEADINGS = ("recipe", "seeds", "first loss", *SPLITS, DIFFERENCE, "updates/s")
LEGEND = (
    "Losses in nats per token: mean ± standard deviation over seeds (best to worst). The difference in validation "
    "loss is relative to the first recipe (with a grid, at the same grid point), paired by seed, with a 95 % interval "
    "of Student's t."
)
OF_A_SEED = ("seed_everything", "data.corpus")  # options in which the runs of a recipe may differ
Row = dict[str, Any]
Panels = dict[str, dict[str, list[Row]]]  # the runs with a result, by heading and name of the recipe


def write_report(
    folder: Path, runs: Sequence[SeedRun], failures: Sequence[SeedRun], words: Sequence[str], console: Console
) -> None:
    """Writes results.csv, results.json, report.md with the command `words`, figures; prints failures and a table."""
    from runlab._drawing import draw
    from runlab.many._figures import loss_bands_figure, points_figure

    for run in failures:
        console.print(f"failed: {run.recipe}, seed {run.seed}: {run.last_line}; full log: {run.log}")
    rows = [_row(run, run in failures) for run in runs]
    (folder / "results.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    panels = _panels(folder, runs, rows)
    lines = _lines(panels)
    title = f"{folder.name}: mean ± standard deviation over seeds"
    shown = [HEADINGS.index(name) for name in ("recipe", "seeds", "first loss", "val", DIFFERENCE)]
    columns = (Column(HEADINGS[index], overflow="fold") for index in shown)  # as many as fit a terminal
    table = Table(*columns, title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    for line in lines:
        table.add_row(line[0], *(line[index].split(" (")[0] for index in shown[1:]))
    console.print(table, soft_wrap=False)
    if any(row["val"] is not None for row in rows):
        if _have_curves(rows):
            losses = _values(panels, lambda row: np.load(Path(row["folder"], "losses.npy")))
            (folder / "curves.png").write_bytes(draw(loss_bands_figure, losses)[0])
        points = _values(panels, lambda row: row["val"])
        (folder / "final.png").write_bytes(draw(points_figure, points, "validation loss")[0])
    (folder / "report.md").write_text(_markdown(folder.name, lines, rows, words), encoding="utf-8")
    console.print(f"report  {folder / 'report.md'}")


def paired_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Returns mean and half width (nan for one value) of the 95 % interval of Student's t for paired differences."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, math.nan
    return mean, _t_quantile(len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))


def processor() -> str:
    """Returns the system's name for the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _t_quantile(freedom: int) -> float:
    """Returns the 97.5 % quantile of Student's t, integrating its density from 0 over atan(t / sqrt(freedom))."""
    angle = np.linspace(0, np.pi / 2, 200_001)
    # With t = sqrt(freedom) * tan(angle), the density becomes cos(angle)^(freedom - 1), up to a factor.
    mass = np.cumsum(np.cos(angle) ** (freedom - 1))
    return float(math.sqrt(freedom) * np.tan(angle[np.searchsorted(mass, 0.95 * mass[-1])]))


def _row(run: SeedRun, failed: bool) -> Row:
    results = (*SPLITS, "first_loss", "updates", "updates_per_second", "folder", "corpus")
    row: Row = {"recipe": run.recipe, "seed": run.seed, **dict.fromkeys(results)}
    if (path := run.finished) is not None:
        metrics = run.result
        row |= {split: metrics[split]["loss"] for split in SPLITS}
        row |= {key: metrics[key] for key in ("updates", "updates_per_second")}
        row |= {"folder": str(path), "corpus": metrics["corpus"]["sha256"]}
        losses = np.load(path / "losses.npy", mmap_mode="r")
        row["first_loss"] = float(losses[0]) if len(losses) else None
    return row | {"error": run.last_line if failed else None}


def _have_curves(rows: Sequence[Row]) -> bool:
    """Returns whether all runs with a result have updates to draw."""
    return all(row["first_loss"] is not None for row in rows if row["val"] is not None)


def _panels(folder: Path, runs: Sequence[SeedRun], rows: Sequence[Row]) -> Panels:
    """Returns the rows by recipe; if several configurations are crossed with a grid, each of its points is a heading.

    Raises:
        UserError: the runs of a recipe used different corpora, for example after a failed download of names.txt, or
            other options, as one that was resumed by hand.
    """
    several, options = len({run.config for run in runs}) > 1, cache(_options)
    panels: Panels = {}
    for run, row in zip(runs, rows, strict=True):
        heading, name = (run.point, run.config) if several else ("", run.point or run.config)
        group = panels.setdefault(heading, {}).setdefault(name, [])
        if row["val"] is not None:
            group.append(row)
        if group and group[-1]["corpus"] != (first := group[0])["corpus"]:
            raise UserError(
                f"{folder}: {run.recipe} was trained on different corpora with seeds {first['seed']} and {run.seed}; "
                f"remove {first['folder']} or {row['folder']}, and give a single --data.corpus"
            )
        if group and (option := differing([options(one["folder"]) for one in (group[0], group[-1])], OF_A_SEED)):
            raise UserError(
                f"{folder.name}: {run.recipe} has runs with different {option[0]}, {group[0]['folder']} and "
                f"{row['folder']}; remove one, and repeat the command"
            )
    return panels


def _options(folder: str) -> Row:
    """Returns the options of a run with its folder, by name; none if they cannot be read."""
    found = configuration_in(Path(folder))
    return dict(flattened(found)) if isinstance(found, dict) else {}


def _values(panels: Panels, value: Callable[[Row], Any]) -> dict[str, dict[str, list[Any]]]:
    """Returns a value of each row, without the recipes and headings that have no rows."""
    return {
        heading: {name: [value(row) for row in rows] for name, rows in recipes.items() if rows}
        for heading, recipes in panels.items()
        if any(recipes.values())
    }


def _lines(panels: Panels) -> list[list[str]]:
    """Returns the rows of the table, a cell for each of HEADINGS; differences are to the panel's first recipe."""
    lines = []
    for heading, recipes in panels.items():
        first = next(iter(recipes.values()))
        base = {(row["seed"], row["corpus"]): row["val"] for row in first}
        for name, rows in recipes.items():
            line = [f"{name} {heading}".strip(), str(len(rows))]
            if rows:
                line.append(_spread([row["first_loss"] for row in rows if row["first_loss"] is not None], 2))
                line += [_spread([row[split] for row in rows], 4) for split in SPLITS]
                pairs = [(row["val"], base.get((row["seed"], row["corpus"]))) for row in rows]
                paired = [a - b for a, b in pairs if b is not None]
                few = f", of {len(paired)} seeds" if 0 < len(paired) < len(rows) else ""
                line.append("" if rows is first else f"{_difference(paired)}{few}")
                line.append(f"{statistics.fmean(row['updates_per_second'] for row in rows):,.0f}")
            lines.append(line + ["-"] * (len(HEADINGS) - len(line)))
    return lines


def _spread(values: Sequence[float], digits: int) -> str:
    def written(value: float) -> str:
        return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.3g}"

    if not values:
        return "-"
    text = written(statistics.fmean(values))
    if len(values) < 2:
        return text
    return f"{text} ± {written(statistics.stdev(values))} ({written(min(values))} to {written(max(values))})"


def _difference(differences: Sequence[float]) -> str:
    if not differences:
        return "-"
    mean, half = paired_interval(differences)
    if not math.isfinite(half):
        return f"{mean:+.4f}"
    return f"{mean:+.4f} ± {half:.4f}{'' if abs(mean) > half else ', not told apart'}"


def _markdown(name: str, lines: Sequence[Sequence[str]], rows: Sequence[Row], words: Sequence[str]) -> str:
    """Returns the report: command, table, figures, and runs without a result."""
    machine = f"torch {version('torch')}, {cores()} cores of {processor()}"
    text = [f"# {name}", "", f"{datetime.date.today()}, {machine}, by", ""]
    text += ["```", shlex.join(words), "```", "", LEGEND, ""]
    text += [f"| {' | '.join(line)} |" for line in (HEADINGS, ["---"] * len(HEADINGS), *lines)]
    if any(row["val"] is not None for row in rows):
        if _have_curves(rows):
            text += ["", "![training loss, mean and range over seeds](curves.png)"]
        text += ["", "![validation loss of every seed](final.png)"]
    text.append("")
    text += [
        f"- no result: {row['recipe']}, seed {row['seed']}: {row['error'] or 'not trained yet'}"
        for row in rows
        if row["val"] is None
    ]
    return "\n".join(text).rstrip("\n") + "\n"
