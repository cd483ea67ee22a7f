"""Builds a model and its data from arguments, with LightningCLI; the trainer is built when a run starts."""

import re
import secrets
import sys
import warnings
from collections.abc import Sequence
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import SUPPRESS, Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

from multistep import EngineName
from ngram_mlp.callbacks import Quantity
from ngram_mlp.data import NGramDataModule
from ngram_mlp.data.corpus import SampleCorpusWarning
from ngram_mlp.diagnostics.batch_norm_statistics import StatisticsName
from ngram_mlp.diagnostics.statistics import SATURATION
from ngram_mlp.models import (
    LanguageModel,
    schedules,  # noqa: F401  # so that the parser finds WarmupCosine by name
)
from runlab import (
    Parser,
    ShowTrainer,
    UserError,
    about_memory,
    flattened,
    from_environment,
    read_configuration,
    require_at_least,
    split_arguments,
    words_for,
)

GROUPS = ("model", "data", "trainer", "observe")
RECIPE = ("model", "data", "seed_everything")  # options whose changes name a run
USAGE = "%(prog)s [--config FILE] [--OPTION VALUE ...]"
ABOUT_OPTIONS = (
    "Example: --model.n_hidden 300 --trainer.max_steps 50000. --model.help lists the model's options, --model.help MLP "
    "(or package.module.Class) those of another, --help.trainer those of Lightning's trainer, such as "
    "--trainer.max_steps and --trainer.callbacks+=NAME. A step is always an update (an optimizer step)."
)


class TrainCLI(LightningCLI):
    """Parses a single command without subcommands, and builds its model and data."""

    description = "Trains a character-level n-gram MLP."
    model: LanguageModel
    datamodule: NGramDataModule

    def __init__(self, args: Sequence[str] | None, default_config: Path) -> None:
        args = [*from_environment(GROUPS), *(sys.argv[1:] if args is None else args)]
        if args and args[-1] == "--model.help":  # of the default model, not of the shared class
            args = [*args[:-1], "--model.help=BatchNormMLP"]
        args, self.resume_point = split_arguments(args)
        self._typed = args
        if self.resume_point and self.resume_point.folder:
            default_config = self.resume_point.folder / "config.yaml"
        if default_config.is_file():
            read_configuration(str(default_config))  # raises for what the parser would not explain
        about = f"{self.description} {ABOUT_OPTIONS}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SampleCorpusWarning)  # `train.py` shows a panel instead
            super().__init__(
                LanguageModel,
                NGramDataModule,
                save_config_callback=None,
                parser_class=Parser,
                parser_kwargs={"default_config_files": [str(default_config)], "usage": USAGE, "description": about},
                subclass_mode_model=True,
                args=args,
                run=False,
                auto_configure_optimizers=False,
                # Hyperparameters are constructor arguments, not a configuration that names classes (promise 6).
                load_from_checkpoint_support=False,
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add = parser.add_argument
        where = "The run goes to RUNS_DIR/NAME/version_N. By default NAME has the changes to model, data and seed."
        add("--name", type=str, default="default", help=where)
        add("--runs_dir", type=str, default="runs", help="The folder of all runs.")
        point = "The checkpoint to resume, or its run's folder; last: the newest run's."
        add("--ckpt_path", type=str | None, default=None, help=point)
        add("--resume", type=str | None, default=None, help="The folder of a run to resume.")
        about = (
            "How updates are performed: compiled (fused), in chunks of plain PyTorch (eager), by Lightning, or "
            "whichever pays (auto)."
        )
        add("--engine", type=EngineName, default="auto", help=about)
        add("--checkpoint_every", type=int, default=10_000, help="Updates between two saves of last.ckpt.")
        add(
            "--statistics",
            type=StatisticsName,
            default="running",
            help="Batch-norm statistics for evaluation: running estimates, or those of the evaluated split (batch) or "
            "training split (calibrated).",
        )
        add(
            "--observe.every_n_updates",
            type=str,
            default="default",
            help="Updates between recordings of numbers, histograms and figures: default (5000/50000/0; 0: only at the "
            "last update), often (100/1000/10000), each (1/10/100), your own N/N/N, or off.",
        )
        add("--observe.layers", type=str, default="*", help="A pattern for the names of the layers to observe.")
        saturation = "The abs(tanh) above which a unit is saturated (other non-linearities: the same slope)."
        add("--observe.saturation", type=float, default=SATURATION, help=saturation)
        own = "Quantities of your own: --observe.quantities+=package.module.Class."
        add("--observe.quantities", type=list[Quantity], default=[], help=own)
        parser.link_arguments("data.vocabulary", "model.init_args.vocabulary", apply_on="instantiate")
        parser.link_arguments("data.block_size", "model.init_args.block_size", apply_on="instantiate")
        all_options = "Show the options of Lightning's trainer and exit."
        add("--help.trainer", action=ShowTrainer, nargs=0, dest=SUPPRESS, default=SUPPRESS, help=all_options)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = _plain(parser.parse_args(args))  # type: ignore[arg-type]
        self._refuse_what_is_no_value()
        resumes = self.resume_point is not None and self.resume_point.folder is not None
        named = any(word.partition("=")[0] == "--name" for word in self._typed)
        if not (resumes or named) and (words := words_for(self._typed, RECIPE, ("data.corpus", "data.data_dir"))):
            self.config.name = f"{self.config.name}/{words}"

    def _set_seed(self) -> None:
        if self.config.seed_everything is True:  # a random one, which config.yaml records
            self.config.seed_everything = secrets.randbelow(2**32)
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(str(error), seed_everything=None) from error

    def _refuse_what_is_no_value(self) -> None:
        """Raises a UserError if a required option is null, or if a file gives a group a value."""
        for group in GROUPS:
            if not isinstance(self.config.get(group), Namespace):
                raise UserError(f"--{group} is a group of options; set them one by one")
        for option in ("name", "runs_dir"):
            if not isinstance(self.config[option], str):
                raise UserError(f"--{option}: give a name")

    def before_instantiate_classes(self) -> None:
        """Raises a UserError for options that would be silently overwritten, or whose errors would raise twice."""
        for key in ("block_size", "vocabulary"):
            if (value := self.config.model.init_args.get(key)) is not None:
                raise UserError(f"--model.{key} {value}: comes from the data; set --data.block_size or --data.corpus")
        if not 0 < (saturation := self.config.observe.saturation) < 1:
            raise UserError("give a number between 0 and 1, such as 0.97", **{"observe.saturation": saturation})
        options = self.config.trainer
        require_at_least(1, accumulate_grad_batches=options.accumulate_grad_batches)
        require_at_least(-1, max_steps=options.max_steps)
        for option in ("val_check_interval", "check_val_every_n_epoch"):
            if isinstance(value := options[option], (int, float)) and value <= 0:
                raise UserError("give a number above 0", **{option: value})
        if (value := options.gradient_clip_val) is not None and value < 0:
            raise UserError("give a number of at least 0", gradient_clip_val=value)
        if isinstance(options.max_time, str) and not options.max_time.strip("0:"):
            raise UserError(f"--trainer.max_time {options.max_time}: leaves no time to train; give DD:HH:MM:SS")
        profiler = options.profiler
        profiler = str(getattr(profiler, "class_path", profiler))
        if profiler.lower().endswith(("xla", "xlaprofiler")) and find_spec("torch_xla") is None:
            raise UserError(f"--trainer.profiler {profiler}: needs torch_xla; install it, or choose another")

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            cause: BaseException = error
            while cause.__cause__ and not isinstance(cause, UserError):  # the parser wraps the error of a class
                cause = cause.__cause__
            if isinstance(cause, UserError):
                raise self._with_group(cause) from error
            if not (about_memory(cause) or isinstance(cause, (ValueError, ImportError))):
                raise
            raise UserError(about_memory(cause) or " ".join(str(cause).split())) from error

    def _with_group(self, error: UserError) -> UserError:
        """Returns the error with the group of its option, if only one group has it; a file may set the option."""
        options = (name for name, _ in flattened(self.config.as_dict()))
        groups = [option.rpartition(".")[0] for option in options if option.endswith(f".{error.argument}")]
        return error.of_group(groups[0]) if len(groups) == 1 else error

    def instantiate_trainer(self, **_: Any) -> None:  # type: ignore[override]
        """Does nothing: `build_trainer` builds the trainer when a run starts."""

    def build_trainer(self, **kwargs: Any) -> Trainer:
        """Returns the trainer that the arguments ask for; keyword arguments take precedence."""
        return super().instantiate_trainer(**kwargs)

    def configuration(self, form: str = "yaml") -> str:
        """Returns all options with their values, which suffice to repeat the run."""
        text = str(self.parser.dump(self.config, skip_unset=False, format=form))
        return re.sub(r"(?:\\u[dD][cC][89a-fA-F][0-9a-fA-F])+", _in_utf_8, text)


def _in_utf_8(found: re.Match[str]) -> str:
    """Returns bytes of a path that the locale could not decode, decoded as UTF-8 so that a file can hold them."""
    return bytes(int(code[-2:], 16) for code in found[0].split("\\u")[1:]).decode("utf-8", "replace")


def _plain(value: Any) -> Any:
    """Returns the values of a configuration, with Lightning's string enumerations as strings that a dump can hold."""
    if isinstance(value, Namespace):
        for key, inner in vars(value).items():
            vars(value)[key] = _plain(inner)
    elif isinstance(value, list):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) and isinstance(value, str) else value
