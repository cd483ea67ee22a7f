"""The whole of `scripts/train.py` with its default callbacks, logging, validations and checkpoints."""

import contextlib
import io
import sys
import tempfile
from pathlib import Path

from measure import Clock

from ngram_mlp.cli.train import main
from ngram_mlp.models import LanguageModel

ENGINE, UPDATES = sys.argv[1], sys.argv[2]
PROJECT = Path(__file__).resolve().parents[1]

clock = Clock()
training_step = LanguageModel.training_step


def timed(self, block, batch_idx):
    output = training_step(self, block, batch_idx)
    clock.tick(self.trainer.global_step)
    return output


LanguageModel.training_step = timed
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    main(
        PROJECT / "configs" / "default.yaml",
        [
            "--runs_dir",
            folder,
            "--model.engine",
            ENGINE,
            "--trainer.max_steps",
            UPDATES,
            "--trainer.accelerator",
            "cpu",
        ],
    )
clock.report()
