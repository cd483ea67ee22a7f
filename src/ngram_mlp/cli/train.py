"""`scripts/train.py`: trains a model, and reports what came out."""

import io
import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.panel import Panel

from ngram_mlp.calibration import evaluate_splits
from ngram_mlp.callbacks.checkpoints import Interrupted
from ngram_mlp.cli.command import command, quiet_threads
from ngram_mlp.cli.console import open_console
from ngram_mlp.cli.tables import print_table
from ngram_mlp.cli.train_cli import TrainCLI
from ngram_mlp.durable import write_atomically
from ngram_mlp.errors import UserError
from ngram_mlp.processes import rank
from ngram_mlp.sampling import sample_one_by_one
from ngram_mlp.terminal import printable, shortened

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
    cli = TrainCLI(args, default_config, console)
    _introduce(cli)
    with cli.resources, quiet_threads():
        try:
            started = time.perf_counter()
            origin = str(cli.origin.checkpoint.absolute()) if cli.origin else None
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=origin, weights_only=True)
            if not rank():
                _report(cli, time.perf_counter() - started)
        except BaseException as error:
            _leave(cli, error)
            raise


def _leave(cli: TrainCLI, error: BaseException) -> None:
    """Tells how an interrupted run goes on, and turns what ended it into one line where it was no bug."""
    last = cli.folder / "checkpoints" / "last.ckpt"
    began = cli.loss_history.began and cli.trainer.global_step > 0
    if not began and not last.exists():
        shutil.rmtree(cli.folder)  # a run that never began leaves nothing behind
    else:
        with suppress(OSError):  # of a full disk, maybe; what ended the run is told
            _save_losses(cli)
    if isinstance(error, SystemExit):  # a signal's
        by = f" by {error.name}" if isinstance(error, Interrupted) else ""
        where = f"the run is in {cli.folder}" if cli.folder.exists() else "nothing was saved yet"
        cli.console.print(f"interrupted{by} at update {cli.trainer.global_step}; {where}")
    if last.exists():
        cli.console.print(f"go on with: {_command_to_go_on(cli.folder)}")
    if isinstance(error, SystemExit):
        # Lightning's own exceptions have status 1 for Ctrl-C and none for SIGTERM.
        raise SystemExit(130 if error.code == 1 else error.code or 143) from None
    if cli.origin and cli.trainer.interrupted and not began and not isinstance(error, (UserError, OSError)):
        reason = shortened(f"{type(error).__name__}: {error}", 300)
        raise UserError(f"--ckpt_path {cli.origin.checkpoint}: no run can go on from it: {reason}") from error


def _command_to_go_on(folder: Path) -> str:
    python = Path(sys.executable)
    return shlex.join([str(_from_here(python)), sys.argv[0], "--resume", str(folder)])


def _from_here(path: Path) -> Path:
    """The path as it is typed in this folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _save_losses(cli: TrainCLI) -> None:
    buffer = io.BytesIO()
    np.save(buffer, cli.loss_history.losses().numpy())
    write_atomically(cli.folder / "losses.npy", buffer.getvalue())


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
    cli.console.print(
        f"corpus  {printable(corpus.name)}, {len(corpus.words):,} words, {len(data.vocabulary)} characters"
    )
    cli.console.print(f"data    {examples} examples for train / val / test")
    cli.console.print(f"run     {cli.folder}, on {cli.trainer.strategy.root_device.type}")


def _report(cli: TrainCLI, seconds: float) -> None:
    """Writes metrics.json and samples.txt, and prints the table, sampled names and what to do next."""
    updates = cli.trainer.global_step
    speed = (updates - cli.datamodule.first_update) / seconds
    metrics = evaluate_splits(cli.model.network, cli.datamodule.splits, cli.config.statistics)
    record: dict[str, Any] = metrics | {
        "statistics": cli.config.statistics,
        "updates": updates,
        "seconds": seconds,
        "updates_per_second": speed,
        "engine": cli.model.engine_name,
        "accelerator": cli.trainer.strategy.root_device.type,
        "corpus": cli.datamodule.corpus.summary(),
    }
    _save_losses(cli)
    write_atomically(cli.folder / "metrics.json", (json.dumps(record, indent=2) + "\n").encode())
    generator = cli.datamodule.stream_generator()
    names = [name for name, _ in sample_one_by_one(cli.model.eval(), SAMPLED_NAMES, generator)]
    write_atomically(cli.folder / "samples.txt", ("\n".join(names) + "\n").encode())

    print_table(cli.console, {cli.config.statistics: metrics})
    cli.console.print(printable("sampled " + ", ".join(names)))
    cli.console.print(f"trained to update {updates:,} in {seconds:.1f} s, {speed:,.0f} updates a second")
    beside_python = Path(sys.executable).with_name("tensorboard")
    tensorboard = "tensorboard" if shutil.which("tensorboard") else _from_here(beside_python)
    cli.console.print(f"look    {tensorboard} --logdir {cli.folder}")
