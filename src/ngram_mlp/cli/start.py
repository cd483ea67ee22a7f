"""Turns a parsed command line into a run ready to train: its checkpoint, folder, callbacks and trainer."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import BackboneFinetuning, LearningRateFinder, LearningRateMonitor, ProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import AsyncCheckpointIO
from pytorch_lightning.strategies import DDPStrategy
from rich.console import Console

from multistep import MultiStep
from ngram_mlp import callbacks
from ngram_mlp.cli.accelerators import resolve_accelerator
from ngram_mlp.cli.resuming import check_checkpoint
from ngram_mlp.cli.train_cli import TrainCLI
from ngram_mlp.diagnostics.batch_norm_statistics import StatisticsName, require_batch_norm
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.layers import batch_norms
from ngram_mlp.models.memory import bytes_of_an_update, bytes_of_memory
from ngram_mlp.processes import rank
from runlab import (
    Checkpoint,
    CheckpointFiles,
    RunCheckpoints,
    Supervised,
    UserError,
    alone_in,
    claim_run_folder,
    refuse_finished,
    remove_folder,
    rewind,
    watcher,
    write_atomically,
)

NEEDED: dict[type[Callback], Sequence[str]] = {
    LearningRateFinder: ("lr", "learning_rate"),
    BackboneFinetuning: ("backbone",),
}


@dataclass(frozen=True)
class Run:
    """A run that is ready to train."""

    trainer: Any  # with all callbacks
    outcome: callbacks.Outcome  # outcome, losses and engine are three of the callbacks
    losses: callbacks.Losses
    engine: MultiStep
    engine_before: str | None  # the engine before an interruption
    folder: Path  # locked by this run
    checkpoint: Path | None  # the one it resumes from
    is_new: bool  # whether the folder was created for it
    undo: Callable[[], None] | None  # restores a resumed run's configuration


def start_run(cli: TrainCLI, console: Console, resources: ExitStack) -> Run:
    """Checks all it can, then creates the folder and the trainer; the caller closes `resources` after the run.

    Raises:
        UserError: something does not fit; a new folder is then removed again, and an old one is unchanged.
    """
    config, data, point = cli.config, cli.datamodule, cli.resume_point
    data.begin_stream()  # from the state in which the model's constructor left the generator
    _refuse_model(cli.model, data.batch_size, config.statistics)
    _ = data.splits  # rejects a corpus that cannot be split before the run has a folder
    config.data.corpus = data.corpus.name  # config.yaml names the corpus that `auto` found
    config.ckpt_path = config.resume = None  # and describes the whole run, interrupted or not
    saved, configuration = cli.configuration("json"), cli.configuration()
    checkpoint = point.checkpoint if point else None
    if checkpoint:
        check_checkpoint(checkpoint, saved, cli.model, data)
        refuse_finished(point.folder if point else None, checkpoint, config.trainer)
        _refuse_no_training(config.trainer)
    old = point.folder if point and not rank() else None
    if rank():  # only the first process writes permanent files
        folder = Path(resources.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
    else:
        folder = old or claim_run_folder(config.runs_dir, config.name)
    try:
        resources.enter_context(alone_in(folder))
        own = callbacks.Losses(folder / "losses.npy"), callbacks.Outcome(config.statistics), MultiStep(config.engine)
        chosen = [*own, *_callbacks(cli, folder, saved, console)]
        trainer = _build_trainer(cli, folder, checkpoint, chosen)
        undo = None
        if old and checkpoint:
            undo = rewind(folder, checkpoint.update, checkpoint.parts["events"], configuration)
        write_atomically(folder / "config.yaml", configuration.encode())
    except BaseException:
        if not old:
            remove_folder(folder)
        raise
    losses, outcome, engine = own
    resumed = checkpoint.path.absolute() if checkpoint else None
    before = checkpoint.content["callbacks"]["MultiStep"]["engine"] if checkpoint else None
    return Run(trainer, outcome, losses, engine, before, folder, resumed, is_new=not old, undo=undo)


def _build_trainer(cli: TrainCLI, folder: Path, checkpoint: Checkpoint | None, chosen: list[Callback]) -> Any:
    if cli.config.trainer.barebones:
        raise UserError(
            "runs need logging, progress and checkpoints; remove this option, or train in Python", barebones=True
        )
    given: dict[str, Any] = {"enable_autolog_hparams": False}  # `Hyperparameters` logs more, and only once
    if cli.config.trainer.logger in (None, True):
        given["logger"] = TensorBoardLogger(folder.parent, "", folder.name, default_hp_metric=False)
    if cli.config.trainer.default_root_dir is None:
        given["default_root_dir"] = str(folder)  # where callbacks write if there is no logger
    wanted = cli.config.trainer
    given["accelerator"] = resolve_accelerator(
        wanted.accelerator, wanted.devices, cli.model.network, cli.datamodule.batch_size
    )
    cli.trainer_defaults["callbacks"] = chosen
    try:
        trainer: Any = cli.build_trainer(**given)
    except UserError:
        raise
    except (ValueError, TypeError, ImportError, OverflowError) as error:  # Lightning's messages about options
        raise UserError(f"--trainer: {' '.join(str(error).split())}; choose another value") from error
    for callback in trainer.callbacks:
        if isinstance(callback, RunCheckpoints):
            trainer.callbacks = callback.in_order(trainer.callbacks)
    _refuse_other_starts(trainer)
    _refuse_what_finds_nothing(trainer, cli.model)
    if trainer.strategy.root_device.type == "cpu":  # a GPU reports missing memory itself
        _refuse_what_does_not_fit(cli.model, cli.datamodule.batch_size)
    cli.datamodule.refuse_unequal_parts(trainer.world_size)
    if isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO):
        remedy = "a checkpoint must be complete before the run continues; remove this plugin"
        raise UserError(remedy, plugins="AsyncCheckpointIO")
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = CheckpointFiles(checkpoint)
    return trainer


def _refuse_no_training(options: Any) -> None:
    """Raises a UserError for options with which a resumed run would not train, but would rewrite its results."""
    reason = "the resumed run would not train; remove this option"
    if options.fast_dev_run:
        raise UserError(reason, **{"trainer.fast_dev_run": options.fast_dev_run})
    if options.limit_train_batches == 0:
        raise UserError(reason, **{"trainer.limit_train_batches": 0})


def _refuse_other_starts(trainer: Any) -> None:
    """Raises a UserError if the strategy starts processes other than by running this command again."""
    strategy = trainer.strategy
    starts = getattr(strategy, "_start_method", "popen")
    if starts != "popen" or not (isinstance(strategy, DDPStrategy) or trainer.world_size == 1):
        remedy = "only ddp can start processes here; use it, or auto with 1 device"
        raise UserError(remedy, strategy=type(strategy).__name__)


def _refuse_model(model: LanguageModel, batch_size: int, statistics: StatisticsName) -> None:
    """Raises a UserError for a model that cannot be trained or evaluated with these options, or not by `train.py`."""
    if not model.automatic_optimization:  # its updates cannot be counted, nor its run resumed
        name = type(model).__name__
        remedy = "use automatic optimization, or train with a Trainer"
        raise UserError(f"{name} uses manual optimization; {remedy}", model=None)
    require_batch_norm(model.network, statistics)
    if batch_size == 1 and batch_norms(model.network):
        raise UserError("batch norm has no standard deviation over 1 example; give at least 2", batch_size=1)


def _refuse_what_does_not_fit(model: LanguageModel, batch_size: int) -> None:
    """Raises a UserError for minibatches that need more memory than there is, before they take it."""
    there, parameters = bytes_of_memory(), sum(parameter.nbytes for parameter in model.network.parameters())
    if 10 * batch_size * model.block_size * parameters < there:  # more than any network takes; the estimate takes 0.3 s
        return
    with suppress(NotImplementedError, RuntimeError):  # a user's network that needs real data
        needed = bytes_of_an_update(model, batch_size)
        if needed > there:
            size = f"an update needs about {needed / 1e9:,.0f} GB of memory, but there are only {there / 1e9:,.0f} GB"
            remedy = f"give {batch_size * there / needed / 2:.0e}"  # the parser accepts 1e+03 as an integer
            raise UserError(f"{size}; {remedy}", batch_size=batch_size)


def _refuse_what_finds_nothing(trainer: Any, model: LanguageModel) -> None:
    """Raises a UserError for a callback of Lightning's that needs an attribute which the model does not have."""
    for kind, names in NEEDED.items():
        if any(isinstance(one, kind) for one in trainer.callbacks) and not any(hasattr(model, name) for name in names):
            reason = f"{kind.__name__} needs a model with an attribute {' or '.join(names)}; remove this callback"
            raise UserError(reason, callbacks=None)


def _callbacks(cli: TrainCLI, folder: Path, saved: str, console: Console) -> list[Callback]:
    """Returns the callbacks of every run, except those that options turn off."""
    config, observe = cli.config, cli.config.observe
    every, layers, saturation = observe.every_n_updates, observe.layers, observe.saturation
    autolog = config.trainer.enable_autolog_hparams
    chosen: list[Callback] = [callbacks.Hyperparameters(_hyperparameters(cli), config.name)] if autolog else []
    quantities = list(cli.config_init.observe.quantities)
    if every != "off":
        quantities = [
            callbacks.ActivationStatistics(every, layers, saturation),
            callbacks.GradientStatistics(every, layers),
            callbacks.BatchNormStatistics(every, layers),
            callbacks.TrainingVerdicts(every, saturation, console),
            callbacks.SampledNames(every),
            callbacks.EmbeddingView(every),
            *quantities,
        ]
        chosen += [
            callbacks.InitializationCheck(console, saturation),
            callbacks.LossHistory(),
            callbacks.CustomScalars(),
        ]
    if quantities:
        chosen += [callbacks.Inspect(quantities), callbacks.Figures()]
    if (connection := watcher()) is not None:
        chosen.append(Supervised(connection))
    given = cli.config_init.trainer.callbacks or []
    given = given if isinstance(given, list) else [given]
    if config.trainer.logger is not False and not any(isinstance(one, LearningRateMonitor) for one in given):
        chosen.append(LearningRateMonitor("step"))
    chosen.append(callbacks.ValidationAtEnd())
    if config.statistics != "running":
        chosen.append(callbacks.EvaluationStatistics(config.statistics))
    shown = any(isinstance(one, ProgressBar) for one in given)
    if config.trainer.enable_progress_bar is not False and not shown:
        chosen.append(callbacks.UpdateProgress(console))
    if config.trainer.enable_checkpointing is not False:
        chosen.append(RunCheckpoints(folder / "checkpoints", config.checkpoint_every, saved))
    return chosen


def _hyperparameters(cli: TrainCLI) -> dict[str, Any]:
    """Returns the hyperparameters for the loggers: all of model and data, none of the trainer."""
    init_args, own = cli.config.model.init_args.as_dict(), dict(cli.model.hparams)
    if isinstance(own["vocabulary"], list):  # there may be thousands of words
        own["vocabulary"] = len(own["vocabulary"])
    return {
        "model": {"class": type(cli.model).__name__, **own},
        "optimizer": init_args.get("optimizer"),
        "lr_scheduler": init_args.get("lr_scheduler"),
        "data": dict(cli.datamodule.hparams) | cli.datamodule.corpus.summary(),
        "seed": cli.config.seed_everything,
    }
