"""A judgement on a network: how a number becomes one, what would help, and how it is shown."""

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
    value: float  # that it rests on
    finding: str  # and its cause
    remedy: str = ""  # empty where all is well
    changes: Mapping[str, Any] = field(default_factory=dict)  # of arguments, by which the remedy is applied


@dataclass(frozen=True)
class Remedy:
    """What would help, in words, and the arguments of a model, its optimizer or its data that would do it."""

    words: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        changes = ", ".join(f"{name}: {value}" for name, value in self.changes.items())
        return f"{self.words} ({changes})" if changes else self.words

    def helps(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a model with these arguments, nested ones by `outer.inner`, could have it and has it not."""
        return any(arguments.get(name, value) != value for name, value in self.changes.items())


class Rule(NamedTuple):
    """How a number that should be small is judged."""

    about: str
    limits: tuple[float, float]  # ok up to the first; bad from the second, and where it is nan
    cause: str
    remedies: Sequence[Remedy]  # the first ones that a network does not have yet are named

    def verdict(
        self, value: float, finding: str, excess: float | None = None, arguments: Mapping[str, Any] | None = None
    ) -> Verdict:
        """Judges the excess, by default the value itself; cause and remedy appear where something is wrong.

        It names the remedies that the network does not already have; all of them if its arguments are unknown, or if it
        has none of those in question.
        """
        excess = value if excess is None else excess
        ok, bad = self.limits
        if excess <= ok:
            return Verdict(self.about, "ok", value, finding)
        level: Level = "warning" if excess < bad else "bad"
        cause, names = f"{finding}: {self.cause}", {name for one in self.remedies for name in one.changes}
        if arguments is not None and names and not names & arguments.keys():  # of a variant of one's own
            return Verdict(self.about, level, value, cause, ", or ".join(one.words for one in self.remedies))
        left = [one for one in self.remedies if arguments is None or not one.changes or one.helps(arguments)]
        changes = left[0].changes if left else {}
        return Verdict(self.about, level, value, cause, ", or ".join(map(str, left[:2])), changes)


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
