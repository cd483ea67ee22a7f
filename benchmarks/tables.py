"""Prints the tables of `scripts/benchmark.py`: medians over rounds, and ratios within a round."""

import statistics
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

Record = dict[str, Any]


def peers(console: Console, record: Record) -> None:
    rounds = record["peers"]
    headings = ("", "µs/update", "min-max", "updates/s", "to notebook", "start cold", "start warm", "memory")
    table = _table("An update: embedding 10, hidden 200, batch norm, minibatch 32", *headings)

    def times_of(name: str) -> list[float]:
        return [row[name]["microseconds"] for row in rounds]

    for name in rounds[0]:
        times = times_of(name)
        starts = [row[name]["startup"] for row in rounds]
        table.add_row(
            name,
            f"{statistics.median(times):.1f}",
            f"{min(times):.0f}-{max(times):.0f}",
            f"{1e6 / statistics.median(times):,.0f}",
            f"{_ratio(times_of('notebook loop'), times):.2f}",
            f"{starts[0]:.1f} s",
            f"{statistics.median(starts[1:] or starts):.1f} s",
            f"{statistics.median(row[name]['memory'] for row in rounds):.0f} MB",
        )
    console.print(table)
    if "jax.lax.scan" in rounds[0]:
        ratio = _ratio(times_of("jax.lax.scan"), times_of("ours, fused"))
        console.print(f"fused is {ratio:.2f} times as fast as jax.lax.scan (median of ratios within a round)")


def whole(console: Console, record: Record) -> None:
    rounds = record["whole"]
    counts = list(rounds[0]["notebook loop"])
    table = _table("Whole commands, seconds from start to exit", "", *(f"{count:,} updates" for count in counts))
    for name in [name for name, seconds in rounds[0].items() if seconds]:
        table.add_row(name, *(f"{statistics.median(row[name][count] for row in rounds):.1f}" for count in counts))
    if rounds[0]["jax.lax.scan"]:
        pairs = [[[row[name][n] for row in rounds] for name in ("train.py, warm", "jax.lax.scan")] for n in counts]
        table.add_row("train.py, warm, to jax", *(f"{_ratio(*pair):.2f}" for pair in pairs))
    console.print(table)


def studies(console: Console, record: Record) -> None:
    table = _table(
        "Studies: compare.py, report included", "seeds x updates", "updates/s per core", "share of a single run's"
    )
    alone = [1e6 / row["ours, fused"]["microseconds"] for row in record["peers"]]
    for name in record["studies"][0]:
        rate = statistics.median(row[name] for row in record["studies"])
        table.add_row(name, f"{rate:,.0f}", f"{rate / statistics.median(alone):.2f}" if alone else "")
    console.print(table)


def loaded(console: Console, record: Record) -> None:
    rounds = record["loaded"]
    table = _table("3 x 512 units, minibatch 256, another process spinning on each core", "", "µs/update", "min-max")
    for name in rounds[0]:
        times = [row[name] for row in rounds]
        table.add_row(name, f"{statistics.median(times):,.0f}", f"{min(times):,.0f}-{max(times):,.0f}")
    console.print(table)


def growth(console: Console, record: Record) -> None:
    rounds = record["growth"]
    names = [name for name in ("notebook", "eager", "fused", "jax") if name in rounds[0][0]]
    ratios = [f"fused to {name}" for name in names if name != "fused"]
    table = _table(
        "Cost of an update by network size, µs", "hidden", "minibatch", "layers", "vocabulary", *names, *ratios
    )
    for index, size in enumerate(rounds[0]):
        rows = [row[index] for row in rounds]
        times = {name: [row[name] for row in rows] for name in names}
        gains = [_ratio(times[name], times["fused"]) for name in names if name != "fused"]
        table.add_row(
            *(f"{size[key]:,}" for key in ("n_hidden", "batch_size", "n_layers", "vocab_size")),
            *(f"{statistics.median(times[name]):,.0f}" for name in names),
            *(f"{gain:.2f}" for gain in gains),
        )
    console.print(table)


def foreign(console: Console, record: Record) -> None:
    rounds = record["foreign"]
    table = _table("Modules from outside this project, µs per update", "", *rounds[0]["tabular"], "gain")
    for module, by in rounds[0].items():
        times = {engine: [row[module][engine] for row in rounds] for engine in by}
        gain = _ratio(times["ordinary"], times["fused"])
        table.add_row(module, *(f"{statistics.median(each):,.1f}" for each in times.values()), f"{gain:.0f}")
    console.print(table)


def variants(console: Console, record: Record) -> None:
    rounds = record["variants"]
    table = _table("Variants of the default recipe, fused engine", "", "updates/s", "to the default")
    for recipe in rounds[0]:
        times = [row[recipe] for row in rounds]
        ratio = _ratio([row["default"] for row in rounds], times)
        table.add_row(recipe, f"{1e6 / statistics.median(times):,.0f}", f"{ratio:.2f}")
    console.print(table)


def observing(console: Console, record: Record) -> None:
    rounds = record["observing"]
    ratio = _ratio(*([row[name]["fit"] for row in rounds] for name in ("default", "off")))
    console.print(f"Observing: a fused run of 200,000 updates takes {ratio:.3f} times as long as without it")
    table = _table("", "", "µs/update")
    for name in rounds[0]["default"]:
        seconds = statistics.median(row["default"][name] for row in rounds)
        table.add_row("the whole training" if name == "fit" else name, f"{seconds / 0.2:.2f}")
    console.print(table)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title or None)
    for heading in headings:
        table.add_column(heading, justify="left" if not heading else "right")
    return table


def _ratio(numerators: Iterable[float], denominators: Iterable[float]) -> float:
    """Returns the median of the ratios within a round, which the drifting speed of a machine does not affect."""
    return statistics.median(one / other for one, other in zip(numerators, denominators, strict=True))
