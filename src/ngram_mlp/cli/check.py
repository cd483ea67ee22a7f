"""`scripts/check.py`: judges a network before its first update, without training it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.cli import LightningArgumentParser

from ngram_mlp.cli.command import command
from ngram_mlp.cli.console import open_console
from ngram_mlp.cli.train_cli import TrainCLI
from ngram_mlp.data import BlockStream
from ngram_mlp.errors import UserError
from ngram_mlp.judging import judge_initialization
from ngram_mlp.looks import look_at
from ngram_mlp.verdicts import as_json, as_table, worst

__all__ = ["main"]


class CheckCLI(TrainCLI):
    """Builds the model and the data of a run, and no trainer."""

    description = "Judges the network of a run before its first update; exit status 1 if something is bad."

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--output", type=str | None, default=None, help="A JSON file for the verdicts.")

    def instantiate_trainer(self, **kwargs: Any) -> None:  # type: ignore[override]
        """Nothing is trained, and no folder is claimed."""
        if self.origin is not None:
            raise UserError("--ckpt_path, --resume: a network is checked before its first update; leave them out")


@command
def main(default_config: Path, args: Sequence[str] | None = None) -> None:
    """Prints the verdicts on the minibatch of update 0; takes the arguments of `scripts/train.py`.

    Args:
        default_config: the configuration that the arguments change.
        args: the command line, by default the process' own.
    """
    console = open_console()
    cli = CheckCLI(args, default_config, console)
    data = cli.datamodule
    # The stream of a run begins where the constructor left the default generator (promise 2).
    generator = torch.Generator().set_state(torch.get_rng_state())
    contexts, targets = next(iter(BlockStream(data.splits["train"], data.batch_size, generator, [1], last_update=1)))
    look = look_at(cli.model.network.train(), contexts[0], targets[0])
    verdicts = judge_initialization(look, cli.config.observe.saturation)
    console.print(as_table(f"{cli.config.name}, before the first update", verdicts), soft_wrap=False)
    if cli.config.output is not None:
        Path(cli.config.output).write_text(json.dumps(as_json(verdicts), indent=2) + "\n", encoding="utf-8")
    if worst(verdicts) == "bad":
        raise SystemExit(1)
