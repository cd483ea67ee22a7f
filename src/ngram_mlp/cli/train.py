"""`scripts/train.py`: trains a model, and reports what came out."""

import json
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.panel import Panel

from ngram_mlp.cli.command import command
from ngram_mlp.cli.console import open_console
from ngram_mlp.cli.report import evaluate_splits, print_table
from ngram_mlp.cli.train_cli import TrainCLI
from ngram_mlp.data.corpus import SampleCorpusWarning
from ngram_mlp.sampling import sample_one_by_one

__all__ = ["main"]

SAMPLED_NAMES = 10


@command
def main(default_config: Path, args: Sequence[str] | None = None) -> None:
    """Trains as the arguments say.

    Args:
        default_config: the configuration that the arguments change.
        args: the command line, by default the process' own.
    """
    console = open_console()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SampleCorpusWarning)  # told by a panel instead
        cli = TrainCLI(sys.argv[1:] if args is None else args, default_config, console)
    _introduce(cli)
    started = time.perf_counter()
    try:
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.config.ckpt_path, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        console.print(f"interrupted at update {cli.trainer.global_step}; the run is in {cli.folder}")
        raise SystemExit(130) from None
    except Exception:
        if cli.trainer.global_step == 0:
            shutil.rmtree(cli.folder)  # a run that never began leaves nothing behind
        raise
    finally:
        if cli.folder.exists():
            np.save(cli.folder / "losses.npy", cli.loss_history.losses().numpy())
    _report(cli, time.perf_counter() - started)


def _introduce(cli: TrainCLI) -> None:
    """Prints what is about to be trained, on what, where."""
    data, corpus = cli.datamodule, cli.datamodule.corpus
    if data.requested_corpus == "auto" and corpus.name == "sample":
        cli.console.print(
            Panel(
                "names.txt is absent and could not be downloaded: training on the sample corpus.\n"
                "The losses of this run are NOT comparable with published ones.\n"
                f"Remedy: put names.txt into {data.data_dir}, or use --data.corpus names to see why it failed.",
                title="SAMPLE CORPUS",
                border_style="bold red",
            ),
            soft_wrap=False,
        )
    parameters = sum(parameter.numel() for parameter in cli.model.parameters())
    examples = " / ".join(f"{len(ngrams):,}" for ngrams in data.splits.values())
    cli.console.print(f"model   {type(cli.model).__name__}, {parameters:,} parameters")
    cli.console.print(f"corpus  {corpus.name}, {len(corpus.words):,} words, {len(data.vocabulary)} characters")
    cli.console.print(f"data    {examples} examples for train / val / test")
    cli.console.print(f"run     {cli.folder}, on {cli.trainer.strategy.root_device.type}")


def _report(cli: TrainCLI, seconds: float) -> None:
    """Writes metrics.json and samples.txt, and prints the table, sampled names and what to do next."""
    updates = cli.trainer.global_step
    speed = (updates - cli.datamodule.first_update) / seconds
    metrics = evaluate_splits(cli.model, cli.datamodule, cli.config.statistics)
    record: dict[str, Any] = metrics | {
        "statistics": cli.config.statistics,
        "updates": updates,
        "seconds": seconds,
        "updates_per_second": speed,
        "engine": cli.model.engine_name,
        "accelerator": cli.trainer.strategy.root_device.type,
        "corpus": cli.datamodule.corpus.summary(),
    }
    (cli.folder / "metrics.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    generator = cli.datamodule.stream_generator()
    names = [name for name, _ in sample_one_by_one(cli.model.eval(), SAMPLED_NAMES, generator)]
    (cli.folder / "samples.txt").write_text("\n".join(names) + "\n", encoding="utf-8")

    print_table(cli.console, {cli.config.statistics: metrics})
    cli.console.print("sampled " + ", ".join(names))
    cli.console.print(f"trained to update {updates:,} in {seconds:.1f} s, {speed:,.0f} updates a second")
    beside_python = Path(sys.executable).with_name("tensorboard")
    if beside_python.is_relative_to(Path.cwd()):
        beside_python = beside_python.relative_to(Path.cwd())
    tensorboard = "tensorboard" if shutil.which("tensorboard") else beside_python
    cli.console.print(f"look    {tensorboard} --logdir {cli.folder}")
