#!/usr/bin/env python3
"""Draws the README's figure: what a bad initialization costs, how depth worsens it, and what cures it.

The left panel shows 1,000 updates, which this script trains; the right one shows the study in docs/studies/depth.
`python benchmarks/story.py` writes docs/images/story.png.
"""

import csv
import itertools
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

PROJECT = Path(__file__).resolve().parents[1]
UPDATES, SEEDS = 1_000, 5
FIRST = {"004_plain": "plain", "004_output_scaled": "output layer small", "004_kaiming": "and Kaiming"}
DEPTH = {
    "no_norm_plain": "plain",
    "residual_plain": "residual",
    "batch_norm_plain": "batch norm",
    "layer_norm_plain": "layer norm",
    "no_norm_kaiming": "Kaiming",
}


def main() -> None:
    """Trains the networks of the left panel, and draws both panels."""
    sys.path.insert(0, str(PROJECT))
    from runlab import CLOSE, STYLE, plain_ticks, smoothed

    with matplotlib.rc_context({**STYLE, "font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8.5}):
        figure = Figure(figsize=(6.2, 2.9), dpi=200, layout="constrained")
        left, right = figure.subplots(1, 2)
        edges = np.unique((np.geomspace(1, UPDATES + 1, 40) - 1).astype(int))
        for color, (recipe, name) in zip(("C3", "C1", "C0"), FIRST.items(), strict=True):
            curves = [smoothed(_losses(recipe, seed), edges)[:2] for seed in range(1, SEEDS + 1)]
            means = np.stack([mean for _, mean in curves])
            left.fill_between(curves[0][0], means.min(0), means.max(0), color=color, alpha=0.2, linewidth=0)
            left.plot(curves[0][0], means.mean(0), color=color, label=name)
        left.set(
            xscale="log",
            yscale="log",
            xlabel="update",
            ylabel="training loss",
            title="Initialization: the first updates",
        )
        plain_ticks(left.xaxis)
        plain_ticks(left.yaxis, CLOSE)
        left.legend()
        for color, (recipe, name) in zip(("C3", "C5", "C2", "C4", "C0"), DEPTH.items(), strict=True):
            by_layers = _validation(recipe)
            means = [statistics.fmean(losses) for losses in by_layers.values()]
            right.plot(range(len(means)), means, ".-", color=color, label=name)
        right.set_xticks(range(len(by_layers)), list(by_layers))
        right.set(xlabel="hidden layers", ylabel="validation loss", title="Depth: after 50,000 updates")
        right.legend()
        figure.savefig(PROJECT / "docs" / "images" / "story.png")


def _losses(recipe: str, seed: int) -> np.ndarray:
    """Returns the losses of the first updates of an experiment on names.txt."""
    from ngram_mlp.cli.train_cli import TrainCLI
    from ngram_mlp.data import Minibatches

    config = str(PROJECT / "configs" / "experiments" / f"{recipe}.yaml")
    cli = TrainCLI(
        ["--config", config, "--data.corpus", "names", "--seed_everything", str(seed)],
        PROJECT / "configs" / "default.yaml",
    )
    generator = torch.Generator().manual_seed(seed)
    optimizer = cli.model.train().configure_optimizers()["optimizer"]
    losses = []
    minibatches = iter(Minibatches(cli.datamodule.splits["train"], cli.datamodule.batch_size, generator))
    for contexts, targets in itertools.islice(minibatches, UPDATES):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(cli.model(contexts), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses, dtype=np.float32)


def _validation(recipe: str) -> dict[str, list[float]]:
    """Returns the validation losses of a recipe's seeds in the study of depth, by number of hidden layers."""
    found = defaultdict(list)
    with (PROJECT / "docs" / "studies" / "depth" / "results.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name, _, point = row["recipe"].partition(" ")
            if name == recipe:
                found[point.partition("=")[2].split()[0]].append(float(row["val"]))
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


if __name__ == "__main__":
    main()
