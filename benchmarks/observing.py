"""What looking costs: a fused run of `scripts/train.py` with a cadence, and the seconds that each callback takes.

Prints the seconds of the training, compiling from the cache included, and of each callback; a look at an update, which
they share, counts as `the looks`.
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

from pytorch_lightning import Trainer

from ngram_mlp import callbacks
from ngram_mlp.callbacks import observer
from ngram_mlp.cli.train import main

CADENCE, UPDATES = sys.argv[1], sys.argv[2]
PROJECT = Path(__file__).resolve().parents[1]
OBSERVERS = [
    "InitializationCheck",
    "ActivationStatistics",
    "GradientStatistics",
    "BatchNormStatistics",
    "TrainingVerdicts",
    "SampledNames",
    "EmbeddingView",
    "CustomScalars",
    "LossHistory",
]
seconds = dict.fromkeys(["fit", "the looks", *OBSERVERS], 0.0)
running = []  # innermost last, so that what runs within another is counted once


def timed(function, name):
    def call(*args, **kwargs):
        started = time.perf_counter()
        running.append(0.0)
        try:
            return function(*args, **kwargs)
        finally:
            took = time.perf_counter() - started
            seconds[name] += took - (running.pop() if name != "fit" else 0)
            if running:
                running[-1] += took

    return call


Trainer.fit = timed(Trainer.fit, "fit")
look_at = observer.look_at
observer.look_at = timed(look_at, "the looks")
for name in OBSERVERS:
    kind = getattr(callbacks, name)
    for hook in ("on_train_start", "on_train_batch_start", "on_train_batch_end", "on_train_end"):
        setattr(kind, hook, timed(getattr(kind, hook), name))
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    arguments = ["--runs_dir", folder, "--model.engine", "fused", "--trainer.max_steps", UPDATES]
    arguments += ["--trainer.accelerator", "cpu", "--observe.every_n_updates", CADENCE]
    main(PROJECT / "configs" / "default.yaml", arguments)
print(json.dumps(seconds))
