"""A judgement on a network, and how it is shown."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

Level = Literal["ok", "warning", "bad"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "bad")
COLORS = {"ok": "green", "warning": "yellow", "bad": "red"}


@dataclass(frozen=True)
class Verdict:
    """One judgement.

    Args:
        about: what was examined.
        level: `ok`, `warning` or `bad`.
        value: the number that it rests on.
        finding: what was found, and the cause.
        remedy: what would help; empty where all is well.
    """

    about: str
    level: Level
    value: float
    finding: str
    remedy: str = ""


def worst(verdicts: Iterable[Verdict]) -> Level:
    """The worst level among verdicts."""
    return max((verdict.level for verdict in verdicts), key=LEVELS.index, default="ok")


def as_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What `preflight.json` and `verdicts.json` hold; a value that is not finite becomes null."""
    rows = [asdict(verdict) for verdict in verdicts]
    for row in rows:
        row["value"] = row["value"] if math.isfinite(row["value"]) else None
    return {"verdict": worst(verdicts), "findings": rows}


def as_markdown(verdicts: Sequence[Verdict]) -> str:
    """A table for TensorBoard's page of texts."""
    rows = [f"| {v.about} | **{v.level}** | {v.finding} | {v.remedy} |" for v in verdicts]
    return "\n".join(["| about | verdict | finding | remedy |", "| --- | --- | --- | --- |", *rows])


def as_table(title: str, verdicts: Sequence[Verdict]) -> Table:
    """A table for the console; the remedy stands under its finding."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, show_header=False, pad_edge=False)
    for v in verdicts:
        level = Text(v.level, style=COLORS[v.level])
        table.add_row(level, v.about, f"{v.finding}\nremedy: {v.remedy}" if v.remedy else v.finding)
    return table
