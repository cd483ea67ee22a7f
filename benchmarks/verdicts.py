#!/usr/bin/env python3
"""Measures what the verdicts are worth: judges 180 networks, and trains them without and with the remedies named.

The limits of the verdicts were chosen from the first 150. `python benchmarks/verdicts.py` takes half an hour on two
cores, and writes the tables between the marks in docs/verdicts.md, and the networks to docs/verdicts.csv.
"""

import csv
import hashlib
import json
import math
import multiprocessing
import random
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
CHOSEN, HELD_OUT = 150, 30
ROUNDS = 3  # of applying remedies, since new verdicts may name more
BADLY = 0.15  # nats above the best network of the same size on the same corpus
QUICK = 128  # the largest minibatch of the networks that are trained for longer
CLEARLY = 0.02  # nats gained by remedies or by longer training
ORDER = ("ok", "warning", "bad")


@dataclass(frozen=True, eq=False)
class Case:
    """A network with its verdicts and results."""

    network: Any
    before: Sequence[Any]  # the verdicts before training
    after: Sequence[Mapping[str, Any]]  # the findings of verdicts.json; empty if the loss diverged
    val: float  # the final validation loss; inf if it diverged
    remedied: float | None  # the same with the remedies
    excess: float  # `val` above the best of its peers

    @property
    def level(self) -> str:
        return max((verdict.level for verdict in self.before), key=ORDER.index)

    @property
    def is_falling(self) -> bool | None:
        """Whether the loss is judged to be still falling at the end; None if it is not judged."""
        levels = [finding["level"] for finding in self.after if finding["about"] == "end of the loss curve"]
        return levels[0] != "ok" if levels else None

    @property
    def ends_badly(self) -> bool:
        return not self.excess < BADLY

    @property
    def is_worse(self) -> bool:
        """Whether the network ends clearly worse than with the remedies."""
        return self.remedied is not None and not self.val < self.remedied + CLEARLY


def main() -> None:
    """Trains the runs missing in `runs/verdicts`, and writes the tables."""
    sys.path.insert(0, str(PROJECT))
    from benchmarks.networks import UPDATES, drawn, references
    from runlab import Run, Script, train_all

    folder = PROJECT / "runs" / "verdicts"
    corpora = _corpora(folder)
    networks = [drawn(number) for number in range(CHOSEN + HELD_OUT)]
    before = {network.name: _judged(network.options(corpora)) for network in networks}
    remedied = {}
    for network in networks:
        changes, verdicts = dict[str, Any](), before[network.name]
        for _ in range(ROUNDS):
            named = {k: v for one in verdicts if one.level != "ok" for k, v in one.changes.items()}
            if not named:
                break
            changes |= named
            verdicts = _judged(replace(network, changes=changes).options(corpora))
        if changes:
            remedied[network.name] = replace(network, changes=changes)

    def run(network: Any) -> Run:
        options = ("--observe.every_n_updates", "default", *network.options(corpora))
        name = f"{network.name}-{hashlib.sha256(' '.join(options).encode()).hexdigest()[:8]}"
        return Run(folder / name, name, options)

    def train(those: Iterable[Any]) -> None:
        missing = [one for one in map(run, those) if one.finished is None]
        train_all(Script(PROJECT / "scripts" / "train.py", preload="ngram_mlp.cli.server"), missing, 2)

    everything = [*references(), *networks, *remedied.values()]
    train(everything)

    def val(network: Any) -> float:
        return run(network).measured("val/loss") if run(network).finished else math.inf

    best: dict[Any, float] = {}
    for network in everything:
        best[network.peers] = min(best.get(network.peers, math.inf), val(network))
    cases = [
        Case(
            network,
            before[network.name],
            _after(run(network).finished),
            val(network),
            val(remedied[network.name]) if network.name in remedied else None,
            val(network) - best[network.peers],
        )
        for network in networks
    ]
    quick = [case for case in cases if case.network.batch_size <= QUICK]
    falling = [case for case in quick if case.is_falling is True]
    done = [case for case in quick if case.is_falling is False][: len(falling)]
    longer = {case: replace(case.network, updates=2 * UPDATES) for case in (*falling, *done)}
    train(longer.values())
    gains = {case: case.val - val(network) for case, network in longer.items()}
    _write_csv(cases)
    document = PROJECT / "docs" / "verdicts.md"
    tables = "\n\n".join(
        [*_tables(cases), _longer({case: gains[case] for case in falling}, {case: gains[case] for case in done})]
    )
    marked = re.sub(r"(?s)(<!-- tables -->\n).*(<!-- end -->)", rf"\1\n{tables}\n\n\2", document.read_text("utf-8"))
    document.write_text(marked, "utf-8")


def _corpora(folder: Path) -> dict[str, Path]:
    """Returns the files of the names and of two samples of them, which it writes."""
    names = PROJECT / "data" / "names.txt"
    words, corpora = names.read_text("utf-8").split(), {"names": names}
    folder.mkdir(parents=True, exist_ok=True)
    for count in (5000, 500):
        corpora[str(count)] = folder / f"{count}_names.txt"
        corpora[str(count)].write_text("\n".join(random.Random(count).sample(words, count)) + "\n", "utf-8")
    return corpora


def _judged(options: Sequence[str]) -> list[Any]:
    from ngram_mlp.cli.train_cli import TrainCLI
    from ngram_mlp.diagnostics.initial_verdicts import judge_model

    cli = TrainCLI(options, PROJECT / "configs" / "default.yaml")
    return judge_model(cli.model.train(), cli.datamodule, cli.config.trainer.max_steps)


def _after(folder: Path | None) -> list[Mapping[str, Any]]:
    path = folder / "verdicts.json" if folder else None
    return list(json.loads(path.read_text("utf-8"))["findings"]) if path and path.exists() else []


def _write_csv(cases: Iterable[Case]) -> None:
    with (PROJECT / "docs" / "verdicts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["network", "recipe", "before", "after", "val", "above the best", "val with the remedies"])
        for case in cases:
            n, after = case.network, [(f["about"], f["level"], f["value"]) for f in case.after]
            recipe = (
                f"{'x'.join(map(str, n.size))} {n.corpus} {n.activation} {n.norm}{' residual' if n.residual else ''} "
            )
            recipe += (
                f"{n.hidden_weight} | {n.hidden_bias} | {n.output_weight} | {n.optimizer} {n.lr:g} | {n.batch_size}"
            )
            before = [(v.about, v.level, v.value) for v in case.before]
            shown = [
                "; ".join(f"{a}: {lv} {x:.3g}" for a, lv, x in those if x is not None) for those in (before, after)
            ]
            remedied = "" if case.remedied is None else f"{case.remedied:.4f}"
            writer.writerow([n.name, recipe, *shown, f"{case.val:.4f}", f"{case.excess:.4f}", remedied])


def _tables(cases: Sequence[Case]) -> list[str]:
    parts = {f"first {CHOSEN}": cases[:CHOSEN], f"other {HELD_OUT}": cases[CHOSEN:]}
    return [_summary(parts), _by_verdict(parts), _afterwards(parts)]


def _summary(parts: Mapping[str, Sequence[Case]]) -> str:
    rows: dict[str, list[str]] = {}
    for cases in parts.values():
        bad = [case for case in cases if case.level == "bad" and case.remedied is not None]
        badly = [case for case in cases if case.ends_badly]
        well = [case for case in cases if not case.ends_badly]
        counts = {
            "called bad; end clearly worse than with the remedies": (bad, [case for case in bad if case.is_worse]),
            "end badly; got at least a warning": (badly, [case for case in badly if case.level != "ok"]),
            "end badly; were called bad": (badly, [case for case in badly if case.level == "bad"]),
            "end well; were called bad": (well, [case for case in well if case.level == "bad"]),
            "end well; got only a warning": (well, [case for case in well if case.level == "warning"]),
        }
        for name, (of, those) in counts.items():
            rows.setdefault(name, []).append(f"{len(those)} of {len(of)}")
    return _table(["networks that", *parts], [[name, *cells] for name, cells in rows.items()])


def _by_verdict(parts: Mapping[str, Sequence[Case]]) -> str:
    """Returns for each verdict how many of its networks end badly, or clearly worse than with the remedies."""
    rows = []
    for about in dict.fromkeys(verdict.about for cases in parts.values() for case in cases for verdict in case.before):
        for level in ("bad", "warning"):
            cells = []
            for cases in parts.values():
                those = [c for c in cases if any((v.about, v.level) == (about, level) for v in c.before)]
                right = [case for case in those if case.is_worse or case.ends_badly]
                cells.append(f"{len(right)} of {len(those)}")
            if any(not cell.endswith(" 0") for cell in cells):
                rows.append([about, level, *cells])
    return _table(["verdict", "level", *(f"right, {name}" for name in parts)], rows)


def _afterwards(parts: Mapping[str, Sequence[Case]]) -> str:
    """Returns for each verdict after training and each level how many of its networks ended badly."""
    rows = []
    for about in dict.fromkeys(f["about"] for cases in parts.values() for case in cases for f in case.after):
        counts: Counter[str] = Counter()
        badly: Counter[str] = Counter()
        for case in (case for cases in parts.values() for case in cases):
            for finding in case.after:
                if finding["about"] == about:
                    counts[finding["level"]] += 1
                    badly[finding["level"]] += case.ends_badly
        rows.append([about, *(f"{badly[level]} of {counts[level]}" for level in ORDER)])
    return _table(["after training", *(f"{level}; ended badly" for level in ORDER)], rows)


def _longer(falling: Mapping[Case, float], done: Mapping[Case, float]) -> str:
    """Returns how much twice the updates reduce the validation loss, for curves that still fall and for others."""
    rows = []
    for name, gains in (("still falls", falling), ("ok", done)):
        median, more = statistics.median(gains.values()), sum(gain > CLEARLY for gain in gains.values())
        rows.append([name, str(len(gains)), f"{median:.3f}", f"{more} of {len(gains)}"])
    return _table(
        ["end of the loss curve", "networks", "loss reduction from twice the updates", f"more than {CLEARLY}"], rows
    )


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows))


if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["ngram_mlp.cli.server"])
    forkserver.ensure_running()
    main()
