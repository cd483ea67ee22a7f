"""Times this package against the loops that its users have today: the command `scripts/benchmark.py`."""

import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import tables
from benchmarks.runs import FOLDER, figures, jax_python, rows, run, study, train
from benchmarks.sizes import DEFAULT, SIZES, written
from runlab import Parser, command
from runlab.many._report import processor

# The script of each peer, and enough updates to run for some seconds.
PEERS = {
    "notebook loop": (["notebook_loop.py"], 6_000),
    "idiomatic Lightning": (["idiomatic_lightning.py"], 2_500),
    "ours, lightning": (["ours.py", "lightning"], 2_500),
    "ours, eager": (["ours.py", "eager"], 8_000),
    "ours, fused": (["ours.py", "fused"], 100_000),
    "ours, fused, averaged": (["ours.py", "fused", "--trainer.callbacks+=EMAWeightAveraging"], 100_000),
    "jax.lax.scan": (["jax_scan.py"], 100_000),
    "Keras 3 on jax": (["keras_jax.py"], 30_000),
}
FOREIGN = ("tabular", "auto-encoder", "classifier")
VARIANTS = ("default", "own step", "RMSprop", "NAdam", "Adagrad")
BY = {"ordinary": 6_000, "eager": 6_000, "fused": 100_000}  # updates
WHOLE = (2_000, 20_000, 200_000)  # the updates of whole commands
STUDIES = ((40, 20_000), (8, 200_000))  # seeds and updates
LARGE = DEFAULT | {"n_hidden": 512, "batch_size": 256, "n_layers": 3}  # for which several threads might pay
Record = dict[str, Any]


@command
def main(args: Sequence[str] | None = None) -> None:
    """Measures each requested part, prints its table, and writes the figures to `--output`.

    Args:
        args: the command line; by default the process's own.
    """
    parser = Parser(description="Times this package against a notebook's loop, idiomatic Lightning and jax.lax.scan.")
    add = parser.add_argument
    add("--repetitions", type=int, default=5, help="Rounds; in each, every peer runs once.")
    add("--whole", type=int, default=3, help="Rounds of whole commands; 0 to skip.")
    add("--studies", type=int, default=1, help="Rounds of the studies; 0 to skip.")
    add("--loaded", type=int, default=3, help="Rounds with another process spinning on each core; 0 to skip.")
    add("--growth", type=int, default=3, help="Rounds of cost by network size; 0 to skip.")
    add("--foreign", type=int, default=3, help="Rounds of modules from outside this project; 0 to skip.")
    add("--variants", type=int, default=3, help="Rounds of variants of the default recipe; 0 to skip.")
    add("--observing", type=int, default=3, help="Rounds for the cost of the callbacks; 0 to skip.")
    add("--output", type=str, default="benchmark.json", help="The output file.")
    options = parser.parse_args(args)
    console = Console(highlight=False, width=110)
    record: Record = {"processor": processor(), "cores": os.cpu_count(), "date": datetime.date.today().isoformat()}
    console.print(f"{record['processor']}, {record['cores']} cores, {record['date']}")
    if jax_python() is None:
        console.print("jax not found; `make bench` installs it in a separate environment")
    parts: dict[str, tuple[int, Callable[[str], Any], Callable[[Console, Record], None]]] = {
        "peers": (options.repetitions, measure_peers, tables.peers),
        "whole": (options.whole, measure_whole, tables.whole),
        "studies": (options.studies, measure_studies, tables.studies),
        "loaded": (options.loaded, measure_loaded, tables.loaded),
        "growth": (options.growth, measure_growth, tables.growth),
        "foreign": (options.foreign, measure_foreign, tables.foreign),
        "variants": (options.variants, measure_variants, tables.variants),
        "observing": (options.observing, measure_observing, tables.observing),
    }
    with tempfile.TemporaryDirectory() as cache:
        for name, (rounds, measure, show) in parts.items():
            record[name] = []
            for number in range(rounds):
                console.print(f"{name}: round {number + 1} of {rounds}")
                record[name].append(measure(cache))
            if rounds:
                show(console, record)
            Path(options.output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.output}")


def measure_peers(cache: str) -> Record:
    """Returns each peer's microseconds per update, seconds to its first update, and memory in MB."""
    found = {}
    for name, (script, updates) in PEERS.items():
        python = jax_python() if "jax" in name else sys.executable
        if python:
            found[name] = figures(FOLDER / script[0], *script[1:], updates, cache=cache, python=python)
    return found


def measure_whole(cache: str) -> Record:
    """Returns the seconds of whole commands by peer and updates; train.py's with nothing or all compiled before."""
    found: Record = {name: {} for name in ("notebook loop", "jax.lax.scan", "train.py, cold", "train.py, warm")}
    with tempfile.TemporaryDirectory() as runs:
        for updates in WHOLE:
            found["notebook loop"][updates] = run(FOLDER / "notebook_loop.py", updates, cache=cache)[1]
            if python := jax_python():
                found["jax.lax.scan"][updates] = run(FOLDER / "jax_scan.py", updates, cache=cache, python=python)[1]
            with tempfile.TemporaryDirectory() as empty:
                found["train.py, cold"][updates] = train(runs, updates, empty)
            train(runs, updates, cache, "--engine", "fused")  # compiles, even where `auto` would not
            found["train.py, warm"][updates] = train(runs, updates, cache)
    return found


def measure_studies(cache: str) -> Record:
    """Returns the updates per second and core of whole studies."""
    with tempfile.TemporaryDirectory() as runs:
        train(runs, 1_000, cache, "--engine", "fused")
    cores = os.cpu_count() or 1
    return {
        f"{seeds} x {updates:,}": seeds * updates / study(seeds, updates, cache) / cores for seeds, updates in STUDIES
    }


def measure_loaded(cache: str) -> Record:
    """Returns the microseconds per update of a large network while another process spins on each core."""
    size, found = written(LARGE), {}
    spinning = [subprocess.Popen([sys.executable, str(FOLDER / "spin.py")]) for _ in range(os.cpu_count() or 1)]
    try:
        for threads in ("chosen", "1"):
            environment = {} if threads == "chosen" else {"OMP_NUM_THREADS": threads}
            os.environ.update(environment)
            (row,) = rows(FOLDER / "growth.py", "fused", 5, size, cache=cache)
            found[f"fused, threads {threads}"] = row["microseconds"]
            for name in environment:
                del os.environ[name]
        if python := jax_python():
            (row,) = rows(FOLDER / "growth_jax.py", 5, size, cache=cache, python=python)
            found["jax.lax.scan"] = row["microseconds"]
    finally:
        for process in spinning:
            process.kill()
            process.wait()
    return found


def measure_foreign(cache: str) -> Record:
    """Returns the microseconds per update of foreign modules, by ordinary Lightning and by engines of multistep."""
    script = FOLDER / "foreign.py"
    return {
        module: {
            engine: figures(script, module, engine, updates, cache=cache)["microseconds"]
            for engine, updates in BY.items()
        }
        for module in FOREIGN
    }


def measure_variants(cache: str) -> Record:
    """Returns the microseconds per fused update of the default recipe, with a custom step, and by other optimizers."""
    script = FOLDER / "variants.py"
    return {recipe: figures(script, recipe, 100_000, cache=cache)["microseconds"] for recipe in VARIANTS}


def measure_growth(cache: str) -> list[Record]:
    """Returns the microseconds per update by peer for networks of growing size, with the peers interleaved."""
    found = []
    for size in SIZES:
        row: Record = dict(size)
        for peer in ("notebook", "eager", "fused"):
            row[peer] = rows(FOLDER / "growth.py", peer, 1, written(size), cache=cache)[0]["microseconds"]
        if python := jax_python():
            (of_jax,) = rows(FOLDER / "growth_jax.py", 1, written(size), cache=cache, python=python)
            row["jax"] = of_jax["microseconds"]
        found.append(row)
    return found


def measure_observing(cache: str) -> Record:
    """Returns the seconds of 200,000 fused updates and of each callback, with observing off and at its default."""
    return {name: figures(FOLDER / "observing.py", name, 200_000, cache=cache) for name in ("off", "default")}
