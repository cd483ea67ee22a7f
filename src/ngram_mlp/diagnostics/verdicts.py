"""A judgement on a network, and how it is shown."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

Level = Literal["ok", "warning", "bad"]
COLORS: dict[Level, str] = {"ok": "green", "warning": "yellow", "bad": "red"}  # from good to bad


@dataclass(frozen=True)
class Verdict:
    """One judgement."""

    about: str  # what was examined
    level: Level
    value: float  # that it rests on
    finding: str  # and its cause
    remedy: str = ""  # empty where all is well


def worst(verdicts: Iterable[Verdict]) -> Level:
    """The worst level among verdicts; `ok` if there are none."""
    return max((verdict.level for verdict in verdicts), key=list(COLORS).index, default="ok")


def as_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What `preflight.json` and `verdicts.json` hold; a value that is not finite becomes null."""
    findings = [asdict(v) | {"value": v.value if math.isfinite(v.value) else None} for v in verdicts]
    return {"verdict": worst(verdicts), "findings": findings}


def as_markdown(verdicts: Sequence[Verdict]) -> str:
    """A table for TensorBoard's page of texts."""
    rows = [f"| {v.about} | **{v.level}** | {v.finding} | {v.remedy} |" for v in verdicts]
    return "\n".join(["| about | verdict | finding | remedy |", "| --- | --- | --- | --- |", *rows])


def as_table(title: str, verdicts: Sequence[Verdict]) -> Table:
    """A table for the console; the remedy stands under its finding."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, show_header=False, pad_edge=False)
    for v in verdicts:
        finding = f"{v.finding}\nremedy: {v.remedy}" if v.remedy else v.finding
        table.add_row(Text(v.level, style=COLORS[v.level]), v.about, finding)
    return table
