"""From a parsed command line to a run that is ready to train: its checkpoint, its folder, its callbacks, its trainer."""

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console

from ngram_mlp.callbacks import (
    ActivationStatistics,
    BatchNormStatistics,
    CustomScalars,
    EmbeddingView,
    EvaluationStatistics,
    GradientStatistics,
    Hyperparameters,
    InitializationCheck,
    LossHistory,
    RunCheckpoints,
    SampledNames,
    TrainingVerdicts,
    UpdateProgress,
)
from ngram_mlp.cli.resuming import check_checkpoint
from ngram_mlp.cli.train_cli import TrainCLI
from ngram_mlp.diagnostics.batch_norm_statistics import require_batch_norm
from ngram_mlp.errors import UserError
from ngram_mlp.models.layers import batch_norms
from ngram_mlp.runs.checkpoint import Checkpoint, CheckpointFiles
from ngram_mlp.runs.files import alone_in, claim_run_folder, rewind, write_atomically
from ngram_mlp.training.processes import rank
from ngram_mlp.training.trainer import refuse_options_without_meaning


@dataclass(frozen=True)
class Run:
    """A run that is ready to train.

    Args:
        trainer: with all callbacks.
        folder: its own, locked.
        checkpoint: the file that it resumes from, if it does.
        is_new: whether the folder was made for it.
    """

    trainer: Any
    folder: Path
    checkpoint: Path | None
    is_new: bool


def start_run(cli: TrainCLI, console: Console, resources: ExitStack) -> Run:
    """Checks all that can be checked, then makes the folder and the trainer.

    Args:
        cli: the parsed command line, with the model just built.
        console: where callbacks print.
        resources: what is closed when the command ends.

    Raises:
        UserError: something does not fit; a new folder is gone again then, and an old one is as it was.
    """
    config, data = cli.config, cli.datamodule
    data.begin_stream()  # where the model's constructor left the generator
    require_batch_norm(cli.model.network, config.statistics)
    if data.batch_size == 1 and batch_norms(cli.model.network):
        raise UserError("batch norm has no standard deviation over 1 example; give at least 2", batch_size=1)
    _ = data.splits  # a corpus that cannot be split is refused before the run has a folder
    config.data.corpus = data.corpus.name  # config.yaml names the corpus that `auto` found
    config.ckpt_path = config.resume = None  # and describes the whole run, wherever it was interrupted
    checkpoint = None
    if (point := cli.resume_point) is not None:
        checkpoint = check_checkpoint(point, cli.configuration("json"), cli.model, data)
    own = point.folder if point and not rank() else None
    folder = own or _new_folder(config.runs_dir, config.name, resources)
    try:
        resources.enter_context(alone_in(folder))
        trainer = _build_trainer(cli, folder, checkpoint, console)
        if own and checkpoint is not None:
            rewind(folder, checkpoint.update, checkpoint.parts["events"], cli.configuration())
        write_atomically(folder / "config.yaml", cli.configuration().encode())
    except BaseException as error:
        if not own:
            shutil.rmtree(folder)
        if type(error) is ValueError:
            raise UserError(f"--trainer: {error}") from error
        raise
    return Run(trainer, folder, point.checkpoint.absolute() if point else None, is_new=own is None)


def _new_folder(runs_dir: str, name: str, resources: ExitStack) -> Path:
    """A folder for this run; what other processes than the first would write goes to one that vanishes."""
    if rank():
        return Path(resources.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
    return claim_run_folder(runs_dir, name)


def _build_trainer(cli: TrainCLI, folder: Path, checkpoint: Checkpoint | None, console: Console) -> Trainer:
    config = cli.config
    kwargs: dict[str, Any] = {}
    if config.trainer.logger in (None, True):
        kwargs["logger"] = TensorBoardLogger(folder.parent, "", folder.name, default_hp_metric=False)
    if config.trainer.default_root_dir is None:
        kwargs["default_root_dir"] = str(folder)  # where callbacks write if there is no logger
    cli.trainer_defaults["callbacks"] = _callbacks(cli, folder, console)
    trainer: Any = cli.build_trainer(**kwargs)
    refuse_options_without_meaning(trainer)  # before Lightning starts further processes
    cli.datamodule.refuse_unequal_parts(trainer.world_size)
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = CheckpointFiles(checkpoint)
    return trainer  # type: ignore[no-any-return]


def _callbacks(cli: TrainCLI, folder: Path, console: Console) -> list[Callback]:
    """What is present in every run, unless it was asked not to be."""
    config = cli.config
    callbacks: list[Callback] = [Hyperparameters(_hyperparameters(cli))]
    if config.observe.every_n_updates != "off":
        callbacks += _observers(**config.observe.as_dict(), console=console)
    if config.statistics != "running":
        callbacks.append(EvaluationStatistics(config.statistics))
    if config.trainer.enable_progress_bar is not False:
        callbacks.append(UpdateProgress(console))
    if config.trainer.enable_checkpointing is not False:
        callbacks.append(RunCheckpoints(folder / "checkpoints", config.checkpoint_every, cli.configuration("json")))
    return callbacks


def _observers(every_n_updates: str, layers: str, saturation: float, console: Console) -> list[Callback]:
    """The callbacks that look inside the network, as `--observe.*` asks for them."""
    if not 0 < saturation < 1:
        raise UserError("give a number between 0 and 1, such as 0.97", saturation=saturation)
    return [
        InitializationCheck(console, saturation),
        ActivationStatistics(every_n_updates, layers, saturation),
        GradientStatistics(every_n_updates, layers),
        BatchNormStatistics(every_n_updates, layers),
        TrainingVerdicts(every_n_updates, layers, saturation, console),
        SampledNames(every_n_updates),
        EmbeddingView(every_n_updates),
        CustomScalars(),
        LossHistory(),
    ]


def _hyperparameters(cli: TrainCLI) -> dict[str, Any]:
    """What TensorBoard shows: everything about model and data, nothing about the trainer."""
    init_args = cli.config.model.init_args.as_dict()
    return {
        "seed": cli.config.seed_everything,
        "model": {"class": type(cli.model).__name__, **dict(cli.model.hparams)},
        "optimizer": init_args.get("optimizer"),
        "lr_scheduler": init_args.get("lr_scheduler"),
        "data": dict(cli.datamodule.hparams) | cli.datamodule.corpus.summary(),
    }
