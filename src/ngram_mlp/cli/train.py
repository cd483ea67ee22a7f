"""`scripts/train.py`: trains a model, and reports the results."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from traceback import walk_tb
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.loggers import CSVLogger, LitLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from rich.console import Console
from rich.panel import Panel

from ngram_mlp.cli.evaluate import print_metrics
from ngram_mlp.cli.start import Run, start_run
from ngram_mlp.cli.train_cli import TrainCLI
from ngram_mlp.console import open_console, quiet_threads
from ngram_mlp.models.sampling import sample_one_by_one
from ngram_mlp.places import DEFAULT_CONFIG
from ngram_mlp.processes import raise_if_another_has_ended, rank
from runlab import (
    LAST,
    Diverged,
    Interrupted,
    RunCheckpoints,
    UserError,
    as_typed,
    called,
    cannot_resume,
    command,
    from_here,
    printable,
    program,
    remove_folder,
    write_atomically,
)

REJECTED = (MisconfigurationException, ValueError, RuntimeError)
Logger.register(LitLogger)  # it derives from Fabric's Logger only, so the parser would reject it


@command
def main(default_config: Path, args: Sequence[str] | None = None) -> None:
    """Trains with `default_config`, overridden by the arguments, by default those of the process."""
    console = open_console()
    cli = TrainCLI(args, default_config)
    with ExitStack() as resources, quiet_threads():
        run = start_run(cli, console, resources)
        _introduce(cli, run, console)
        try:
            run.trainer.fit(cli.model, cli.datamodule, ckpt_path=run.checkpoint, weights_only=True)
            if not rank():
                _report(cli, run, console)
        except BaseException as error:
            _report_interruption(run, console, error)
            raise_if_another_has_ended(error)
            _refuse_mistakes(error)
            raise


def _refuse_mistakes(error: BaseException) -> None:
    """Raises a UserError with the message of what Lightning itself rejects, such as a callback or an interval."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    origin = str(frame.f_globals.get("__name__"))
    if origin.startswith("pytorch_lightning.") and isinstance(error, REJECTED):
        reason = " ".join(str(error).split()) or f"{frame.f_code.co_name} in {origin} is abstract; write a subclass"
        raise UserError(f"--trainer: {reason}") from error


def _introduce(cli: TrainCLI, run: Run, console: Console) -> None:
    """Prints the model, the corpus, the run's folder and the device."""
    data, corpus = cli.datamodule, cli.datamodule.corpus
    if data.requested_corpus == "auto" and corpus.name == "sample":
        warning = (
            "names.txt is absent and could not be downloaded: training on the sample corpus.\n"
            "The losses of this run are NOT comparable with published ones.\n"
            f"To fix this, put names.txt in {data.data_dir}; run with --data.corpus names to see the error."
        )
        console.print(Panel(warning, title="SAMPLE CORPUS", border_style="bold red"), soft_wrap=False)
    parameters = sum(parameter.numel() for parameter in cli.model.parameters())
    examples = " / ".join(f"{len(ngrams):,}" for ngrams in data.splits.values())
    console.print(f"model   {type(cli.model).__name__}, {parameters:,} parameters")
    console.print(f"corpus  {printable(corpus.name)}, {data.about()}")
    console.print(f"data    {examples} examples for train / val / test")
    console.print(f"run     {run.folder}, on {run.trainer.strategy.root_device.type}")


def _report(cli: TrainCLI, run: Run, console: Console) -> None:
    """Writes metrics.json and samples.txt; prints the table, ten sampled names or a text, and where to view the run."""
    updates, outcome, metrics = run.trainer.global_step, run.outcome, run.outcome.metrics
    speed = outcome.updates / outcome.seconds
    record: dict[str, Any] = metrics | {
        "statistics": cli.config.statistics,
        "updates": updates,
        "seconds": outcome.seconds,
        "updates_per_second": speed,
        "engine": run.engine.engine_used or run.engine_before,
        "accelerator": run.trainer.strategy.root_device.type,
        "corpus": cli.datamodule.corpus.summary(),
    }
    generator = cli.datamodule.stream_generator()
    num = 10 if cli.datamodule.unit == "line" else 1
    samples = [sample for sample, _ in sample_one_by_one(cli.model.eval(), num, generator)]
    write_atomically(run.folder / "samples.txt", ("\n".join(samples) + "\n").encode())
    # Last, because it marks the run as finished.
    write_atomically(run.folder / "metrics.json", (json.dumps(record, indent=2) + "\n").encode())

    print_metrics(console, {cli.config.statistics: metrics | _best(run)})
    shown = ", ".join(samples) if num > 1 else "\n" + samples[0].strip()
    console.print("\n".join(map(printable, f"sampled {shown}".split("\n"))))
    console.print(f"trained to update {updates:,} in {outcome.seconds:.1f} s, {speed:,.0f} updates per second")
    for where in [where for logger in run.trainer.loggers if (where := _where_to_look(logger))] or [str(run.folder)]:
        console.print(printable(f"view    {where}"))


def _best(run: Run) -> dict[str, dict[str, float]]:
    """Returns the best checkpoint's validation as a row of the table, unless it is the last checkpoint."""
    for callback in run.trainer.callbacks:
        if isinstance(callback, RunCheckpoints) and callback.best and callback.best[0] != run.trainer.global_step:
            update, metrics = callback.best
            found = {name.removeprefix("val/"): value for name, value in metrics.items()}
            if {"loss", "perplexity", "accuracy"} <= found.keys():
                return {f"val at update {update:,}, the best": found}
    return {}


def _where_to_look(logger: Any) -> str:
    """Returns where to view the curves of a run that logged to this logger: a command, an address, a file or a name."""
    if isinstance(logger, TensorBoardLogger):
        return as_typed([str(program("tensorboard")), "--logdir", logger.log_dir])
    if isinstance(logger, CSVLogger):
        return str(Path(logger.log_dir, "metrics.csv"))
    if isinstance(logger, MLFlowLogger):
        uri = str(getattr(logger, "_tracking_uri", ""))
        return uri if uri.startswith("http") else as_typed([str(program("mlflow")), "ui", "--backend-store-uri", uri])
    if isinstance(logger, WandbLogger):
        wandb_run: Any = logger.experiment
        folder = from_here(Path(wandb_run.dir).parent)
        return as_typed([str(program("wandb")), "sync", str(folder)]) if wandb_run.offline else str(wandb_run.url)
    place = logger.log_dir or logger.save_dir or logger.name
    return f"{type(logger).__name__} {place}" if place else ""


def _report_interruption(run: Run, console: Console, error: BaseException) -> None:
    """Prints how to resume an interrupted run, and turns its cause into one line, unless it was a bug."""
    last = run.folder / LAST
    if run.is_new and not last.exists() and not len(run.losses):
        remove_folder(run.folder)  # a run that never began leaves nothing behind
    if run.undo and not any(isinstance(one, RunCheckpoints) and one.saved_update for one in run.trainer.callbacks):
        run.undo()  # it never resumed
    if isinstance(error, SystemExit):  # from a signal
        by = f" by {error.name}" if isinstance(error, Interrupted) else ""
        where = f"the run is in {run.folder}" if run.folder.exists() else "nothing saved yet"
        console.print(f"interrupted{by} at update {run.trainer.global_step}; {where}")
    if isinstance(error, Diverged):  # its weights are useless, but its curve shows how it diverged
        if (curve := run.folder / "figures" / "loss.png").exists():
            console.print(f"curve   {curve}")
    elif last.exists():
        console.print(f"resume with: {as_typed([*called(), '--resume', str(run.folder)])}")
    if isinstance(error, SystemExit):
        # Lightning's own exceptions exit with 1 on Ctrl-C and with no status on SIGTERM.
        status: Any = error.code
        raise SystemExit({1: 130, None: 143}.get(status, status)) from None
    restored = run.trainer.train_dataloader is not None
    if run.checkpoint and not restored and not isinstance(error, (UserError, OSError)):
        raise cannot_resume(run.checkpoint, error) from error


if __name__ == "__main__":  # a study runs this file if there is no scripts/train.py
    main(DEFAULT_CONFIG)
