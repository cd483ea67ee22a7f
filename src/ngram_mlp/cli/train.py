"""`scripts/train.py`: trains a model, and reports what came out."""

import inspect
import json
import logging
import pydoc
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from rich.panel import Panel

from ngram_mlp.callbacks import Hyperparameters, LossHistory, RunCheckpoints, UpdateProgress
from ngram_mlp.cli.command import Parser, command
from ngram_mlp.cli.report import evaluate_splits, print_table
from ngram_mlp.cli.run_folder import claim_run_folder
from ngram_mlp.data import NGramDataModule
from ngram_mlp.data.corpus import SampleCorpusWarning
from ngram_mlp.errors import UserError
from ngram_mlp.loading import read_checkpoint
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.language_model import refuse_options_without_meaning
from ngram_mlp.sampling import sample_one_by_one

__all__ = ["main"]

DESCRIPTION = "Trains a character-level n-gram MLP. Every number of steps counts updates: minibatches trained on."
SAMPLED_NAMES = 10


class ConsoleHandler(logging.Handler):
    """Prints what the package tells of its doing, above the progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(record.getMessage(), markup=False, highlight=False)


class TrainCLI(LightningCLI):
    """The LightningCLI of this package: a single command, a folder for each run, its callbacks always present."""

    model: LanguageModel
    datamodule: NGramDataModule
    folder: Path

    def __init__(self, args: Sequence[str], default_config: Path, console: Console) -> None:
        self.console = console
        self.loss_history = LossHistory()
        super().__init__(
            LanguageModel,
            NGramDataModule,
            save_config_callback=None,
            parser_class=Parser,
            parser_kwargs={"default_config_files": [str(default_config)], "description": DESCRIPTION},
            subclass_mode_model=True,
            args=configs_first(args),
            run=False,
            auto_configure_optimizers=False,
            # Hyperparameters are what the constructors receive, not a configuration that names classes (contract 6).
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str, default="default", help="The run goes to RUNS_DIR/NAME/version_N.")
        parser.add_argument("--runs_dir", type=str, default="runs", help="The folder of all runs.")
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="The checkpoint to resume from.")
        parser.add_argument(
            "--checkpoint_every", type=int, default=10_000, help="The updates between two saves of last.ckpt."
        )
        parser.link_arguments("data.characters", "model.init_args.characters", apply_on="instantiate")
        parser.link_arguments("data.block_size", "model.init_args.block_size", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = parser.parse_args(args)  # type: ignore[arg-type]

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(f"--seed_everything: {error}") from error

    def before_instantiate_classes(self) -> None:
        """Refuses what would be overwritten in silence: these arguments of a model come from the data."""
        model = self.config.model
        parameters = inspect.signature(pydoc.locate(model.class_path)).parameters  # type: ignore[arg-type]
        for key in ("block_size", "characters"):
            if (value := model.init_args.get(key)) not in (None, parameters[key].default):
                raise UserError(f"--model.{key} {value}: comes from the data; set --data.block_size or --data.corpus")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with this package's callbacks, once everything that it needs has been built without an error."""
        config = self.config
        if config.ckpt_path is not None:
            _check_resuming(config.ckpt_path, self.model)
        _ = self.datamodule.splits  # a corpus that cannot be split is refused before the run has a folder
        config.data.corpus = self.datamodule.corpus.name  # config.yaml names the corpus that `auto` found
        self.folder = claim_run_folder(config.runs_dir, config.name)
        try:
            checkpoints = RunCheckpoints(self.folder / "checkpoints", config.checkpoint_every)
            callbacks: list[Callback] = [self.loss_history, Hyperparameters(self._hyperparameters())]
            if config.trainer.enable_progress_bar is not False:
                callbacks.append(UpdateProgress(self.console))
            if config.trainer.enable_checkpointing is not False:
                callbacks.append(checkpoints)
            self.trainer_defaults["callbacks"] = callbacks
            if config.trainer.logger in (None, True):
                kwargs["logger"] = TensorBoardLogger(
                    config.runs_dir, config.name, self.folder.name, default_hp_metric=False
                )
            trainer: Trainer = super().instantiate_trainer(**kwargs)
            refuse_options_without_meaning(trainer)  # before Lightning starts further processes
        except BaseException as error:
            self.folder.rmdir()
            if type(error) is ValueError:
                raise UserError(f"--trainer: {error}") from error
            raise
        (self.folder / "config.yaml").write_text(self.parser.dump(config, skip_unset=False), encoding="utf-8")
        return trainer

    def _hyperparameters(self) -> dict[str, Any]:
        """What TensorBoard shows: everything about model and data, nothing about the trainer."""
        init_args = self.config.model.init_args.as_dict()
        return {
            "seed": self.config.seed_everything,
            "model": {"class": type(self.model).__name__, **dict(self.model.hparams)},
            "optimizer": init_args.get("optimizer"),
            "lr_scheduler": init_args.get("lr_scheduler"),
            "data": dict(self.datamodule.hparams),
        }


@command
def main(default_config: Path, args: Sequence[str] | None = None) -> None:
    """Trains as the arguments say.

    Args:
        default_config: the configuration that the arguments change.
        args: the command line, by default the process' own.
    """
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    console = Console(soft_wrap=True)
    package_log = logging.getLogger("ngram_mlp")
    package_log.setLevel(logging.INFO)
    package_log.handlers = [ConsoleHandler(console)]
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own affair
    warnings.filterwarnings("ignore", message="`max_epochs` was not set")  # refused in our own words
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


def configs_first(args: Sequence[str]) -> list[str]:
    """The arguments with `--config FILE` before all others, so that an override holds wherever it stands.

    The parser applies arguments in order: `--model.n_hidden 9 --config a.yaml` would lose the 9.
    """
    configs, others, rest = [], [], iter(args)
    for arg in rest:
        if arg in ("-c", "--config"):
            configs += [arg, *([value] if (value := next(rest, None)) is not None else [])]
        elif arg.startswith("--config="):
            configs.append(arg)
        else:
            others.append(arg)
    return configs + others


def _check_resuming(path: str, model: LanguageModel) -> None:
    """Raises a UserError where the checkpoint to resume from was not trained with this model."""
    checkpoint = read_checkpoint(path)
    saved = {"class": checkpoint["model"], **checkpoint["hyper_parameters"]}
    given = {"class": type(model).__name__, **model.hparams}
    for key in {**saved, **given}:
        if saved.get(key) != given.get(key):
            raise UserError(
                f"--ckpt_path {path}: trained with model.{key} {saved.get(key)!r}, "
                f"this run has {given.get(key)!r}; resume with the configuration that it was trained with"
            )


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
            )
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
    metrics = evaluate_splits(cli.model, cli.datamodule)
    record: dict[str, Any] = metrics | {
        "updates": updates,
        "seconds": seconds,
        "updates_per_second": updates / seconds,
        "engine": cli.model.engine_name,
        "accelerator": cli.trainer.strategy.root_device.type,
        "corpus": cli.datamodule.corpus.summary(),
    }
    (cli.folder / "metrics.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    generator = cli.datamodule.stream_generator()
    names = [name for name, _ in sample_one_by_one(cli.model.eval(), SAMPLED_NAMES, generator)]
    (cli.folder / "samples.txt").write_text("\n".join(names) + "\n", encoding="utf-8")

    print_table(cli.console, metrics)
    cli.console.print("sampled " + ", ".join(names), highlight=False)
    cli.console.print(f"trained {updates:,} updates in {seconds:.1f} s, {updates / seconds:,.0f} a second")
    tensorboard = shutil.which("tensorboard") or Path(sys.executable).with_name("tensorboard")
    cli.console.print(f"look    {tensorboard} --logdir {cli.folder}", highlight=False)
