"""The LightningCLI of this package: from arguments to a model, its data and a trainer with a folder of its own."""

import inspect
import pydoc
import shutil
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console

from ngram_mlp import schedules  # noqa: F401  # so that the parser knows WarmupCosine by its name
from ngram_mlp.calibration import StatisticsName, require_batch_norm
from ngram_mlp.callbacks import EvaluationStatistics, Hyperparameters, LossHistory, RunCheckpoints, UpdateProgress
from ngram_mlp.checkpoint_file import CheckpointFiles
from ngram_mlp.cli.changes import check_checkpoint
from ngram_mlp.cli.command import Parser
from ngram_mlp.cli.observers import add_observe_arguments, observers
from ngram_mlp.cli.origin import find_origin
from ngram_mlp.cli.run_folder import alone_in, claim_run_folder, rewind
from ngram_mlp.data import NGramDataModule
from ngram_mlp.data.corpus import SampleCorpusWarning
from ngram_mlp.durable import write_atomically
from ngram_mlp.errors import UserError
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.trainer_options import refuse_options_without_meaning
from ngram_mlp.processes import rank

__all__ = ["TrainCLI"]

USAGE = "%(prog)s [--config FILE] [--OPTION VALUE ...]"
ABOUT_OPTIONS = (
    "An example: --model.n_hidden 300 --trainer.max_steps 50000. The options of the model are listed by --model.help, "
    "those of a model of your own by --model.help package.module.Class. Every number of steps counts updates: "
    "minibatches trained on."
)


class TrainCLI(LightningCLI):
    """The LightningCLI of this package: a single command, a folder for each run, its callbacks always present."""

    description = "Trains a character-level n-gram MLP."
    model: LanguageModel
    datamodule: NGramDataModule
    folder: Path
    loss_history: LossHistory

    def __init__(self, args: Sequence[str] | None, default_config: Path, console: Console) -> None:
        args = sys.argv[1:] if args is None else args
        self.console = console
        self.resources = ExitStack()  # to be closed when the command ends
        self.origin = find_origin(args)
        if self.origin and self.origin.configuration:
            default_config = self.origin.configuration
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SampleCorpusWarning)  # `train.py` shows a panel
            super().__init__(
                LanguageModel,
                NGramDataModule,
                save_config_callback=None,
                parser_class=Parser,
                parser_kwargs={
                    "default_config_files": [str(default_config)],
                    "usage": USAGE,
                    "description": f"{self.description} {ABOUT_OPTIONS}",
                },
                subclass_mode_model=True,
                args=_arranged(args),
                run=False,
                auto_configure_optimizers=False,
                # Hyperparameters are what the constructors receive, no configuration that names classes (promise 6).
                load_from_checkpoint_support=False,
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str, default="default", help="The run goes to RUNS_DIR/NAME/version_N.")
        parser.add_argument("--runs_dir", type=str, default="runs", help="The folder of all runs.")
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="The checkpoint to go on from; last: of the newest run."
        )
        parser.add_argument("--resume", type=str | None, default=None, help="The folder of a run to go on with.")
        parser.add_argument(
            "--checkpoint_every", type=int, default=10_000, help="The updates between two saves of last.ckpt."
        )
        parser.add_argument(
            "--statistics",
            type=StatisticsName,
            default="running",
            help="What batch norm evaluates with: its running estimates, the statistics over the evaluated split "
            "(batch), or those over the training split (calibrated).",
        )
        add_observe_arguments(parser)
        parser.link_arguments("data.characters", "model.init_args.characters", apply_on="instantiate")
        parser.link_arguments("data.block_size", "model.init_args.block_size", apply_on="instantiate")
        groups: Any = parser._action_groups
        groups.sort(key=lambda group: "training via flags" in str(group.title))  # the long one last

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
        config, origin = self.config, self.origin
        self.datamodule.begin_stream()  # where the model's constructor, which has just been called, left the generator
        require_batch_norm(self.model.network, config.statistics)
        _ = self.datamodule.splits  # a corpus that cannot be split is refused before the run has a folder
        config.data.corpus = self.datamodule.corpus.name  # config.yaml names the corpus that `auto` found
        config.ckpt_path = config.resume = None  # config.yaml is that of the whole run, wherever it was interrupted
        configuration = self.parser.dump(config, skip_unset=False, format="json")
        checkpoint = check_checkpoint(origin, configuration, self.model, self.datamodule) if origin else None
        own_folder = origin.folder if origin and not rank() else None
        self.folder = own_folder or self._new_folder()
        try:
            self.resources.enter_context(alone_in(self.folder))
            self.trainer_defaults["callbacks"] = self._callbacks(configuration)
            if config.trainer.logger in (None, True):
                kwargs["logger"] = TensorBoardLogger(self.folder.parent, "", self.folder.name, default_hp_metric=False)
            if config.trainer.default_root_dir is None:
                kwargs["default_root_dir"] = str(self.folder)  # where callbacks write if there is no logger
            trainer: Any = super().instantiate_trainer(**kwargs)
            refuse_options_without_meaning(trainer)  # before Lightning starts further processes
            self.datamodule.refuse_unequal_parts(trainer.world_size)
            if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
                trainer.strategy.checkpoint_io = CheckpointFiles()
            if own_folder and checkpoint is not None:
                rewind(self.folder, checkpoint, self._configuration())
            write_atomically(self.folder / "config.yaml", self._configuration().encode())
        except BaseException as error:
            self.resources.close()
            if not own_folder:
                shutil.rmtree(self.folder)
            if type(error) is ValueError:
                raise UserError(f"--trainer: {error}") from error
            raise
        return trainer  # type: ignore[no-any-return]

    def _new_folder(self) -> Path:
        """A folder for this run; what other processes than the first would write goes to one that vanishes."""
        if rank():
            return Path(self.resources.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
        return claim_run_folder(self.config.runs_dir, self.config.name)

    def _callbacks(self, configuration: str) -> list[Callback]:
        """What is present in every run, unless it was asked not to be."""
        config = self.config
        self.loss_history = LossHistory(figure=config.observe.cadence != "off")
        looking = observers(config.observe, self.console)
        callbacks = [*looking, self.loss_history, Hyperparameters(self._hyperparameters())]
        if config.statistics != "running":
            callbacks.append(EvaluationStatistics(config.statistics))
        if config.trainer.enable_progress_bar is not False:
            callbacks.append(UpdateProgress(self.console))
        if config.trainer.enable_checkpointing is not False:
            callbacks.append(RunCheckpoints(self.folder / "checkpoints", config.checkpoint_every, configuration))
        return callbacks

    def _configuration(self) -> str:
        return str(self.parser.dump(self.config, skip_unset=False))

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


def _arranged(args: Sequence[str]) -> list[str]:
    """The arguments with `--config FILE` before all others, so that an override holds wherever it stands.

    The parser applies arguments in order: `--model.n_hidden 9 --config a.yaml` would lose the 9. A bare `--model.help`
    means the network that is trained by default, not the class that all variants share.
    """
    args = [*args[:-1], "--model.help=MLP"] if args and args[-1] == "--model.help" else args
    configs, others, rest = [], [], iter(args)
    for arg in rest:
        if arg in ("-c", "--config"):
            configs += [arg, *([value] if (value := next(rest, None)) is not None else [])]
        elif arg.startswith("--config="):
            configs.append(arg)
        else:
            others.append(arg)
    return configs + others
