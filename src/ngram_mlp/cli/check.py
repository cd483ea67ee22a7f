"""`scripts/check.py`: judges a network before its first update, without training it."""

import json
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.cli import LightningArgumentParser

from ngram_mlp.cli.command import command, open_console
from ngram_mlp.cli.train_cli import TrainCLI
from ngram_mlp.diagnostics.judging import judge_initialization
from ngram_mlp.diagnostics.snapshot import take_snapshot
from ngram_mlp.diagnostics.verdicts import as_json, as_table, worst
from ngram_mlp.errors import UserError


class CheckCLI(TrainCLI):
    """The same options as for training, and a file for the verdicts."""

    description = "Judges the network of a run before its first update; exit status 1 if something is bad."

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--output", type=str | None, default=None, help="A JSON file for the verdicts.")


@command
def main(default_config: Path, args: Sequence[str] | None = None) -> None:
    """Prints the verdicts on the minibatch of update 0; takes the arguments of `scripts/train.py`."""
    console = open_console()
    cli = CheckCLI(args, default_config)
    if cli.resume_point is not None:
        raise UserError("--ckpt_path, --resume: an initial network is judged, not a checkpoint; leave them out")
    snapshot = take_snapshot(cli.model.network.train(), *cli.datamodule.first_minibatch())
    verdicts = judge_initialization(snapshot, cli.config.observe.saturation)
    console.print(as_table(f"{cli.config.name}, before the first update", verdicts), soft_wrap=False)
    if cli.config.output is not None:
        Path(cli.config.output).write_text(json.dumps(as_json(verdicts), indent=2) + "\n", encoding="utf-8")
    if worst(verdicts) == "bad":
        raise SystemExit(1)
