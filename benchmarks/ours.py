"""Runs `scripts/train.py` as a whole, with its default callbacks, logging and checkpoints.

It also validates every 10,000 updates and draws figures at the last one. No other peer does, so both are left out of
the time here; the benchmark's second table, of whole commands, includes them.
"""

import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path

from measure import Clock

from ngram_mlp.callbacks import Inspect, Losses
from ngram_mlp.cli.train import main
from ngram_mlp.models import LanguageModel

ENGINE, *OPTIONS, UPDATES = sys.argv[1:]
PROJECT = Path(__file__).resolve().parents[1]

clock = Clock()
on_train_batch_end = Losses.on_train_batch_end
observe = Inspect.on_train_batch_end
on_validation_epoch_start = LanguageModel.on_validation_epoch_start
on_validation_epoch_end = LanguageModel.on_validation_epoch_end


def timed(self, trainer, *args):
    on_train_batch_end(self, trainer, *args)
    if trainer.global_step > 1:  # Lightning performs the first update; compiling comes after it
        clock.tick(trainer.global_step)


def observed(self, trainer, *args):
    began = time.perf_counter()
    observe(self, trainer, *args)
    if trainer.global_step == trainer.max_steps:
        clock.leave_out(time.perf_counter() - began)


def validation_begins(self):
    self.began = time.perf_counter()
    on_validation_epoch_start(self)


def validation_ends(self):
    on_validation_epoch_end(self)
    clock.leave_out(time.perf_counter() - self.began)


Losses.on_train_batch_end = timed
Inspect.on_train_batch_end = observed
LanguageModel.on_validation_epoch_start = validation_begins
LanguageModel.on_validation_epoch_end = validation_ends
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    main(
        PROJECT / "configs" / "default.yaml",
        [
            "--runs_dir",
            folder,
            "--engine",
            ENGINE,
            "--trainer.max_steps",
            UPDATES,
            "--trainer.accelerator",
            "cpu",
            *OPTIONS,
        ],
    )
clock.report()
