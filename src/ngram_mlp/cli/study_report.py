"""What a study shows: its results as files, a table with error bars, figures, and a report."""

import csv
import datetime
import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

__all__ = ["paired_interval", "write_report"]

SPLITS = ("train", "val", "test")
Row = dict[str, Any]


def write_report(
    folder: Path,
    runs: Sequence[tuple[str, int, Path | None]],
    failed: Mapping[tuple[str, int], str],
    words: Sequence[str],
    console: Console,
) -> None:
    """Writes `results.csv`, `results.json`, two figures and `report.md` into a study's folder, and prints the table.

    Args:
        folder: the study's.
        runs: recipe, seed and folder of every run; None where there is no result.
        failed: by recipe and seed, why a run failed.
        words: the command that the report names.
        console: where the table is printed.
    """
    from ngram_mlp.figures import draw, loss_bands_figure, points_figure

    rows = [_row(recipe, seed, path, failed.get((recipe, seed))) for recipe, seed, path in runs]
    (folder / "results.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    done: dict[str, list[Row]] = {recipe: [] for recipe, _, _ in runs}
    for row in rows:
        if row["val"] is not None:
            done[row["recipe"]].append(row)
    headings, cells = _summary(done)
    table = Table(title=f"{folder.name}: mean ± standard deviation over seeds", box=SIMPLE, pad_edge=False)
    for heading in headings[:-1]:
        table.add_column(heading)
    for line in cells:
        table.add_row(*(cell.split(" (")[0] for cell in line[:-1]))
    console.print(table, soft_wrap=False)
    with_results = {recipe: rows for recipe, rows in done.items() if rows}
    if with_results:
        losses: dict[str, list[Any]] = {recipe: [] for recipe in with_results}
        for recipe, _, path in runs:
            if path is not None:
                losses[recipe].append(np.load(path / "losses.npy"))
        points = {recipe: [row["val"] for row in rows] for recipe, rows in with_results.items()}
        for name, figure in (
            ("curves", loss_bands_figure(losses)),
            ("final", points_figure(points, "validation loss")),
        ):
            (folder / f"{name}.png").write_bytes(draw(figure)[0])
    (folder / "report.md").write_text(_markdown(folder.name, headings, cells, rows, words), encoding="utf-8")
    console.print(f"report  {folder / 'report.md'}")


def paired_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % interval of Student's t for paired differences; nan where there is only one."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, math.nan
    return mean, _t_quantile(len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))


def _t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by integrating its density from 0 in the variable atan(t / sqrt(freedom))."""
    angle = np.linspace(0, np.pi / 2, 200_001)
    # With t = sqrt(freedom) * tan(angle) the density becomes cos(angle)^(freedom - 1), up to a factor.
    mass = np.cumsum(np.cos(angle) ** (freedom - 1))
    return float(math.sqrt(freedom) * np.tan(angle[np.searchsorted(mass, 0.95 * mass[-1])]))


def _row(recipe: str, seed: int, path: Path | None, error: str | None) -> Row:
    row: Row = {"recipe": recipe, "seed": seed, **dict.fromkeys(SPLITS)}
    row |= {"first_loss": None, "updates": None, "updates_per_second": None, "folder": None}
    if path is not None:
        metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
        row |= {split: metrics[split]["loss"] for split in SPLITS}
        row |= {key: metrics[key] for key in ("updates", "updates_per_second")}
        row |= {"first_loss": float(np.load(path / "losses.npy", mmap_mode="r")[0]), "folder": str(path)}
    return row | {"error": error}


def _summary(done: Mapping[str, Sequence[Row]]) -> tuple[list[str], list[list[str]]]:
    """The headings and the cells of the table; differences in validation loss to the first recipe, paired by seed."""
    headings = ["recipe", "seeds", "first loss", *SPLITS, "val, difference to the first (95 %)", "updates/s"]
    base = {row["seed"]: row["val"] for row in next(iter(done.values()))}
    cells = []
    for recipe, rows in done.items():
        line = [recipe, str(len(rows))]
        if rows:
            line.append(_spread([row["first_loss"] for row in rows], 2))
            line += [_spread([row[split] for row in rows], 4) for split in SPLITS]
            differences = [row["val"] - base[row["seed"]] for row in rows if row["seed"] in base]
            line.append(_difference(differences) if rows is not next(iter(done.values())) else "")
            line.append(f"{statistics.fmean(row['updates_per_second'] for row in rows):,.0f}")
        cells.append(line + ["-"] * (len(headings) - len(line)))
    return headings, cells


def _spread(values: Sequence[float], digits: int) -> str:
    text = f"{statistics.fmean(values):.{digits}f}"
    if len(values) < 2:
        return text
    return f"{text} ± {statistics.stdev(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _difference(differences: Sequence[float]) -> str:
    if not differences:
        return "-"
    mean, half = paired_interval(differences)
    return f"{mean:+.4f} ± {half:.4f}" if math.isfinite(half) else f"{mean:+.4f}"


def _markdown(
    name: str, headings: Sequence[str], cells: Sequence[Sequence[str]], rows: Sequence[Row], words: Sequence[str]
) -> str:
    """The report: command, table, figures, and what failed."""
    lines = [f"# {name}", "", f"{datetime.date.today().isoformat()}, by", "", "```", shlex.join(words), "```", ""]
    lines += ["Mean ± standard deviation over seeds (best to worst); losses in nats a character.", ""]
    lines += [f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *cells)]
    lines += ["", "![training loss, mean and range over seeds](curves.png)", ""]
    lines += ["![validation loss of every seed](final.png)", ""]
    lines += [f"- no result: {row['recipe']}, seed {row['seed']}: {row['error']}" for row in rows if row["val"] is None]
    return "\n".join(lines).rstrip("\n") + "\n"
