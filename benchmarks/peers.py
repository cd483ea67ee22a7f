"""`scripts/benchmark.py`: this package against the loops that its users have today, in one run."""

import datetime
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ngram_mlp.cli.command import Parser, command
from ngram_mlp.studies.report import processor

FOLDER = Path(__file__).resolve().parent
# Updates each, so that every peer runs some seconds.
PEERS = {
    "notebook loop": (["notebook_loop.py"], 6_000),
    "idiomatic Lightning": (["idiomatic_lightning.py"], 2_500),
    "ours, lightning": (["ours.py", "lightning"], 2_500),
    "ours, eager": (["ours.py", "eager"], 8_000),
    "ours, fused": (["ours.py", "fused"], 60_000),
    "ours, fused, averaged": (["ours.py", "fused", "--trainer.callbacks+=EMAWeightAveraging"], 60_000),
    "jax.lax.scan": (["jax_scan.py"], 60_000),
}


@command
def main(args: Sequence[str] | None = None) -> None:
    """Measures, prints two or three tables, and writes `benchmark.json`.

    Args:
        args: the command line, by default the process' own.
    """
    parser = Parser(description="Times this package against a notebook's loop, idiomatic Lightning and jax.lax.scan.")
    parser.add_argument("--repetitions", type=int, default=5, help="Rounds; in each, every peer runs once.")
    parser.add_argument("--growth", type=bool, default=True, help="Measure how the cost grows with the network.")
    parser.add_argument("--whole", type=int, default=1, help="Times to run the whole default command; 0 to leave out.")
    parser.add_argument(
        "--observing", type=int, default=3, help="Rounds for the cost of the callbacks; 0 to leave out."
    )
    parser.add_argument("--output", type=str, default="benchmark.json", help="Where the figures go.")
    options = parser.parse_args(args)
    console = Console(highlight=False, width=110)
    record: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "date": datetime.date.today().isoformat(),
    }
    console.print(f"{record['processor']}, {record['cores']} cores, {record['date']}")
    with tempfile.TemporaryDirectory() as cache:
        record["peers"] = measure_peers(console, options.repetitions, cache)
        print_peers(console, record["peers"])
        if options.whole:
            record["whole"] = [measure_whole(cache) for _ in range(options.whole)]
            print_whole(console, record["whole"])
        if options.observing:
            record["observing"] = measure_observing(options.observing, cache)
            print_observing(console, record["observing"])
        if options.growth:
            output = run([str(FOLDER / "growth.py"), str(options.repetitions), "1"], cache)
            record["growth"] = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
            print_growth(console, record["growth"])
    Path(options.output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.output}")


def measure_peers(console: Console, repetitions: int, cache: str) -> dict[str, dict[str, list[float]]]:
    """The peers' figures, a list each, from interleaved rounds; the first round is the one with a cold cache."""
    figures: dict[str, dict[str, list[float]]] = {}
    for repetition in range(repetitions):
        for name, (script, updates) in PEERS.items():
            if name.startswith("jax") and importlib.util.find_spec("jax") is None:
                continue
            console.print(f"round {repetition + 1} of {repetitions}: {name}")
            output = run([str(FOLDER / script[0]), *script[1:], str(updates)], cache)
            for key, value in json.loads(output.splitlines()[-1]).items():
                figures.setdefault(name, {}).setdefault(key, []).append(value)
    return figures


def measure_whole(cache: str) -> dict[str, float]:
    """Seconds of the default command, cache cold and warm, and of the notebook loop's 200,000 updates."""
    command = [str(FOLDER.parent / "scripts" / "train.py"), "--trainer.accelerator", "cpu", "--runs_dir"]
    seconds = {}
    with tempfile.TemporaryDirectory() as runs, tempfile.TemporaryDirectory() as empty:
        for name, arguments, folder in (
            ("cold", [*command, runs], empty),
            ("notebook", [str(FOLDER / "notebook_loop.py"), "200000"], cache),
            ("warm", [*command, runs], cache),
        ):
            started = time.perf_counter()
            run(arguments, folder)
            seconds[name] = time.perf_counter() - started
    return seconds


def measure_observing(repetitions: int, cache: str) -> list[dict[str, dict[str, float]]]:
    """Seconds of 200,000 fused updates and of each callback, without observing and with the default intervals."""
    script = [str(FOLDER / "observing.py")]
    return [
        {name: json.loads(run([*script, name, "200000"], cache).splitlines()[-1]) for name in ("off", "default")}
        for _ in range(repetitions)
    ]


def run(arguments: list[str], cache: str) -> str:
    """The output of a Python script in a process of its own, with the compiler's cache in a folder."""
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": cache,
        "BENCHMARK_STARTED": str(time.time()),
        "PYTHONWARNINGS": "ignore",
    }
    process = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{process.stderr}")
    return process.stdout


def print_peers(console: Console, peers: dict[str, dict[str, list[float]]]) -> None:
    table = Table(title="An update: embedding 10, hidden 200, batch norm, minibatch 32")
    headings = ("", "µs/update", "min-max", "updates/s", "to notebook", "start cold", "start warm", "memory")
    for heading in headings:
        table.add_column(heading, justify="left" if not heading else "right")
    # Ratios round by round, so that a machine whose speed drifts does not show in them.
    notebook = peers["notebook loop"]["microseconds"]
    for name, figures in peers.items():
        times = figures["microseconds"]
        ratio = statistics.median(base / own for base, own in zip(notebook, times, strict=True))
        warm = statistics.median(figures["startup"][1:] or figures["startup"])
        table.add_row(
            name,
            f"{statistics.median(times):.1f}",
            f"{min(times):.0f}-{max(times):.0f}",
            f"{1e6 / statistics.median(times):,.0f}",
            f"{ratio:.2f}",
            f"{figures['startup'][0]:.1f} s",
            f"{warm:.1f} s",
            f"{statistics.median(figures['memory']):.0f} MB",
        )
    console.print(table)


def print_whole(console: Console, whole: list[dict[str, float]]) -> None:
    table = Table(title="200,000 updates, from start to table")
    for heading in ("", "seconds", "to notebook"):
        table.add_column(heading, justify="left" if not heading else "right")
    for key, name in (
        ("notebook", "the notebook loop, which evaluates nothing"),
        ("cold", "python scripts/train.py, cache cold"),
        ("warm", "python scripts/train.py, cache warm"),
    ):
        ratio = statistics.median(row["notebook"] / row[key] for row in whole)
        table.add_row(name, f"{statistics.median(row[key] for row in whole):.1f}", f"{ratio:.2f}")
    console.print(table)


def print_observing(console: Console, rounds: list[dict[str, dict[str, float]]]) -> None:
    ratio = statistics.median(row["default"]["fit"] / row["off"]["fit"] for row in rounds)
    console.print(f"What observing costs a fused run of 200,000 updates: {ratio:.3f} of the time without")
    table = Table()
    table.add_column("")
    table.add_column("µs/update", justify="right")
    for name in rounds[0]["default"]:
        seconds = statistics.median(row["default"][name] for row in rounds)
        table.add_row("the whole training" if name == "fit" else name, f"{seconds / 0.2:.2f}")
    console.print(table)


def print_growth(console: Console, growth: list[dict[str, Any]]) -> None:
    table = Table(title="How the cost of an update grows, µs")
    for heading in ("hidden", "minibatch", "layers", "words", "notebook", "eager", "fused", "eager x", "fused x"):
        table.add_column(heading, justify="right")
    for row in growth:
        medians = {name: statistics.median(row[name]) for name in ("notebook", "eager", "fused")}
        gains = [
            statistics.median(base / own for base, own in zip(row["notebook"], row[name], strict=True))
            for name in ("eager", "fused")
        ]
        table.add_row(
            *(f"{row[key]:,}" for key in ("n_hidden", "batch_size", "n_layers", "words")),
            *(f"{value:,.0f}" for value in medians.values()),
            *(f"{gain:.2f}" for gain in gains),
        )
    console.print(table)
