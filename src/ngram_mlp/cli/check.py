"""`scripts/check.py`: judges a network before its first update, without training it."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.cli import LightningArgumentParser

from ngram_mlp.cli.train_cli import TrainCLI
from ngram_mlp.console import open_console
from ngram_mlp.diagnostics.initial_verdicts import judge_model
from ngram_mlp.diagnostics.trial import clipping
from ngram_mlp.diagnostics.verdicts import as_json, as_table, worst
from runlab import UserError, command


class CheckCLI(TrainCLI):
    """Parses the options of training, and a file for the verdicts."""

    description = "Judges a run's network before its first update; exits with status 1 if a verdict is bad."

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--output", type=str | None, default=None, help="Write the verdicts to this JSON file.")


@command
def main(default_config: Path, args: Sequence[str] | None = None) -> None:
    """Prints the verdicts on a run's network; takes the arguments of `scripts/train.py`."""
    console = open_console()
    cli = CheckCLI(args, default_config)
    if cli.resume_point is not None:
        raise UserError(
            "--ckpt_path, --resume: check judges an untrained network, not a checkpoint; remove these options"
        )
    trainer, output = cli.config.trainer, cli.config.output
    if output is not None and (Path(output).is_dir() or not Path(output).parent.is_dir()):
        raise UserError("give a file in an existing folder", output=output)
    cli.model.network.train()
    verdicts = judge_model(
        cli.model,
        cli.datamodule,
        _updates(trainer, len(cli.datamodule.train_dataloader())),
        accumulated=trainer.accumulate_grad_batches,
        validates=trainer.limit_val_batches != 0,
        clip=clipping(trainer.gradient_clip_val, trainer.gradient_clip_algorithm),
        saturation=cli.config.observe.saturation,
    )
    console.print(as_table(f"{cli.config.name}, before the first update", verdicts), soft_wrap=False)
    if output is not None:
        Path(output).write_text(json.dumps(as_json(verdicts), indent=2) + "\n", encoding="utf-8")
    if worst(verdicts) == "bad":
        raise SystemExit(1)


def _updates(trainer: Any, minibatches: int) -> int:
    """Returns the updates of a run with these trainer options and this many minibatches per epoch, if known."""
    if trainer.overfit_batches:
        return sys.maxsize
    limit = trainer.limit_train_batches
    if limit is not None:
        minibatches = int(minibatches * limit) if isinstance(limit, float) else min(minibatches, limit)
    each = -(-minibatches // trainer.accumulate_grad_batches)
    epochs = trainer.max_epochs
    if epochs is None and trainer.max_steps == -1 and trainer.max_time is None:
        epochs = 1_000  # Lightning's default
    ends = [trainer.max_steps if trainer.max_steps >= 0 else sys.maxsize]
    return min(ends + ([epochs * each] if epochs not in (None, -1) else []))
