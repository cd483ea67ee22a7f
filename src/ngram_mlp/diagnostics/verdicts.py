"""Turns numbers into verdicts on a network, names what would help, and formats them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

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
    value: float  # the number it rests on
    finding: str  # what was found, and its cause
    remedy: str = ""  # empty if all is well
    changes: Mapping[str, Any] = field(default_factory=dict)  # of arguments that apply the remedy


@dataclass(frozen=True)
class Remedy:
    """A remedy in words, and the arguments of a model, its optimizer or its data that apply it."""

    words: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        changes = ", ".join(f"{name}: {value}" for name, value in self.changes.items())
        return f"{self.words} ({changes})" if changes else self.words

    def helps(self, arguments: Mapping[str, Any]) -> bool:
        """Returns whether it would change one of these arguments of a model (nested ones as `outer.inner`)."""
        return any(arguments.get(name, value) != value for name, value in self.changes.items())


class Rule(NamedTuple):
    """Judges a number that should be small."""

    about: str
    limits: tuple[float, float]  # ok up to the first; bad from the second, or if nan
    cause: str
    remedies: Sequence[Remedy]  # the first two that a network lacks are named

    def verdict(
        self, value: float, finding: str, excess: float | None = None, arguments: Mapping[str, Any] | None = None
    ) -> Verdict:
        """Judges the excess, by default the value itself; adds cause and remedy if something is wrong.

        Names the first two remedies that the network lacks; or all, without their changes, if the network has none of
        the arguments that they change.
        """
        excess = value if excess is None else excess
        ok, bad = self.limits
        if excess <= ok:
            return Verdict(self.about, "ok", value, finding)
        level: Level = "warning" if excess < bad else "bad"
        cause, names = f"{finding}: {self.cause}", {name for one in self.remedies for name in one.changes}
        if arguments is not None and names and not names & arguments.keys():  # of a user's variant
            return Verdict(self.about, level, value, cause, ", or ".join(one.words for one in self.remedies))
        left = [one for one in self.remedies if arguments is None or not one.changes or one.helps(arguments)]
        changes = left[0].changes if left else {}
        return Verdict(self.about, level, value, cause, ", or ".join(map(str, left[:2])), changes)


def worst(verdicts: Iterable[Verdict]) -> Level:
    """Returns the worst level among verdicts; `ok` if there are none."""
    return max((verdict.level for verdict in verdicts), key=list(COLORS).index, default="ok")


def as_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Returns the content of `preflight.json` and `verdicts.json`; a value that is not finite becomes null."""
    findings = [asdict(v) | {"value": v.value if math.isfinite(v.value) else None} for v in verdicts]
    return {"verdict": worst(verdicts), "findings": findings}


def as_markdown(verdicts: Sequence[Verdict]) -> str:
    """Returns a table for TensorBoard's page of texts."""
    rows = [f"| {v.about} | **{v.level}** | {v.finding} | {v.remedy} |" for v in verdicts]
    return "\n".join(["| about | verdict | finding | remedy |", "| --- | --- | --- | --- |", *rows])


def as_table(title: str, verdicts: Sequence[Verdict]) -> Table:
    """Returns a table for the console, with each remedy under its finding."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, show_header=False, pad_edge=False)
    for v in verdicts:
        finding = f"{v.finding}\nremedy: {v.remedy}" if v.remedy else v.finding
        table.add_row(Text(v.level, style=COLORS[v.level]), v.about, finding)
    return table
