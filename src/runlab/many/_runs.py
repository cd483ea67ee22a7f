"""Lists runs with their differences and results."""

import argparse
import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.box import SIMPLE
from rich.table import Column, Table

from runlab._command import command, open_console, show
from runlab._errors import UserError, printable
from runlab._options import flattened, shortened_options
from runlab._parser import PlainParser

RESULTS = ("val", "test", "train", "updates", "seconds", "engine")
SPLITS = ("train", "val", "test")
# Options for a run's files and the way it was called, which are not part of its recipe.
PLACES = ("name", "runs_dir", "ckpt_path", "resume", "data.data_dir", "trainer.default_root_dir")
CONDITION = re.compile(r"([\w./]+)(=|<|>)(.*)")
Row = dict[str, Any]  # a run's folder, results, and options as typed


@command
def list_runs(args: Sequence[str] | None = None) -> None:
    """Prints a table of the runs below a folder, by default the best first, with the options in which they differ."""
    options = _parse(sys.argv[1:] if args is None else args)
    every = runs_in(Path(options.folder))
    if not every:
        raise UserError(f"{options.folder} contains no runs; give the folder of all runs or a subfolder")
    rows = [row for row in every if all(_meets(row, condition, every) for condition in options.where)]
    if not rows:
        raise UserError("no run matches; remove or relax a condition", where=" ".join(options.where))
    columns, by = differing(rows), _column("sort", options.sort, every)
    rows.sort(key=lambda row: _order(row.get(by)), reverse=options.reverse)
    rows.sort(key=lambda row: row.get(by) is None or row[by] != row[by])  # runs without a value, or nan, come last
    if options.csv:
        _print_csv(rows, ["run", *RESULTS, *columns])
        return
    shown = [name for name in RESULTS if name != "train"]
    headings = [Column(name, no_wrap=True, justify="right") for name in shown]
    ends = Column("run", overflow="fold"), Column("differences", overflow="fold")
    table = Table(ends[0], *headings, ends[1], box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for row, words in zip(rows, _differences(rows, columns), strict=True):
        table.add_row(printable(row["run"]), *(_shown(name, row.get(name)) for name in shown), printable(words))
    open_console().print(table, soft_wrap=False)


def runs_in(folder: Path) -> list[Row]:
    """Returns the runs below a folder, each with its folder as `run`, its results, and its options."""
    found = []
    for path in sorted(folder.rglob("config.yaml")):
        configuration = configuration_in(path.parent)
        if path.parent.name.startswith("version_") and isinstance(configuration, dict):
            run = path.parent.relative_to(folder).as_posix()
            results = dict.fromkeys(RESULTS) | _results(path.parent)
            found.append({**dict(flattened(configuration)), "run": run, **results})
    return found


def differing(rows: Sequence[Row], besides: Sequence[str] = ()) -> list[str]:
    """Returns the options with several values, ignoring for each the runs that lack it because of their class.

    Results, files, and the options that `besides` names do not count.
    """
    options = dict.fromkeys(key for row in rows for key in row if key not in ("run", *RESULTS, *PLACES, *besides))
    return [key for key in options if len({repr(row[key]) for row in rows if key in row}) > 1]


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = PlainParser(description="Lists runs with their differences and results.", allow_abbrev=False)
    add = parser.add_argument
    add("folder", nargs="?", default="runs", help="The folder of all runs, or a subfolder. (default: runs)")
    add("--sort", default="val", metavar="COLUMN", help="A result, or an option. (default: val, the validation loss)")
    add("--reverse", action="store_true", help="Reverse the order (largest first).")
    conditions = "Only runs that match: COLUMN=VALUE, COLUMN<NUMBER or COLUMN>NUMBER; may be repeated."
    add("--where", action="append", default=[], metavar="CONDITION", help=conditions)
    add("--csv", action="store_true", help="Print everything as CSV.")
    return parser.parse_args(args)


def configuration_in(run: Path) -> Any:
    """Returns the content of config.yaml in a run's folder; None if it cannot be read."""
    with suppress(OSError, yaml.YAMLError, ValueError):  # not a run's, or being written
        text = (run / "config.yaml").read_text(encoding="utf-8")
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return None


def _results(run: Path) -> Row:
    """Returns the results of a run; for an unfinished one, the number of updates in its saved losses."""
    updates = None
    with suppress(OSError, ValueError):
        updates = len(np.load(run / "losses.npy", mmap_mode="r"))
    with suppress(OSError, ValueError, KeyError, TypeError):
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        losses = {split: metrics[split]["loss"] for split in SPLITS if split in metrics}
        if updates in (None, metrics["updates"]):  # else the run was resumed since
            return {**losses, **{key: metrics[key] for key in ("updates", "engine", "seconds")}}
    return {} if updates is None else {"updates": updates}


def _column(asked: str, name: str, rows: Iterable[Row]) -> str:
    """Returns the column with a name or an option's last words; `asked` is the argument to name in an error."""
    known = dict.fromkeys(key for row in rows for key in row)
    named = [name] if name in known else [key for key in known if key.endswith(f".{name}")]
    if len(named) != 1:
        which = f"matches {' and '.join(named)}; give one of them" if named else "no run has such an option or result"
        raise UserError(which, **{asked: name})
    return named[0]


def _meets(row: Row, condition: str, rows: Sequence[Row]) -> bool:
    parts = CONDITION.fullmatch(condition)
    if parts is None:
        raise UserError("give COLUMN=VALUE, COLUMN<NUMBER or COLUMN>NUMBER", where=condition)
    name, relation, value = parts.groups()
    found = row.get(column := _column("where", name, rows))
    limit = _number(value)
    if relation == "=":
        word = json.dumps(found) if found is None or isinstance(found, bool) else str(found)
        return column in row and (value in (word, _value(found)) or (limit is not None and found == limit))
    if limit is None:
        raise UserError("give a number to compare with", where=condition)
    return isinstance(found, int | float) and (found < limit if relation == "<" else found > limit)


def _number(text: str) -> float | None:
    with suppress(ValueError):
        return float(text)
    return None


def _order(value: Any) -> tuple[int, float, str]:
    is_number = isinstance(value, int | float) and value == value  # nan has no place in an order
    return (0, float(value), "") if is_number else (1, 0.0, str(value))


def _differences(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """Returns for each run the options whose values are not the most common ones, with shortened names."""
    usual = {one: Counter(repr(row[one]) for row in rows if one in row).most_common(1)[0][0] for one in columns}
    short = dict(zip(columns, shortened_options(columns), strict=True))
    return [
        " ".join(f"{short[one]}={_value(row[one])}" for one in columns if one in row and repr(row[one]) != usual[one])
        for row in rows
    ]


def _value(value: Any) -> str:
    """Returns a short form of a value: a class by its name alone."""
    if isinstance(value, list):
        return ",".join(map(_value, value))
    if isinstance(value, dict) and "class_path" in value:
        return _value(value["class_path"])
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.rpartition(".")[2] if re.fullmatch(r"[a-zA-Z_]\w*(\.\w+)*\.[A-Z]\w*", text) else text


def _shown(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column in SPLITS:
        return f"{value:.4f}" if value < 1_000 else f"{value:.3g}"
    if column == "seconds":
        return f"{value:,.1f}"
    if column == "updates":
        return f"{value:,}"
    return str(value)


def _print_csv(rows: Sequence[Row], columns: Sequence[str]) -> None:
    class Lines:
        def write(self, line: str) -> None:
            show(line.rstrip("\r\n"))

    writer = csv.DictWriter(Lines(), columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
