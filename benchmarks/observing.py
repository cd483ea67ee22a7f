"""Measures what observing costs: the seconds of a fused run of `train.py` with given intervals, and of each callback.

The seconds of training include compiling from the cache. The snapshots that callbacks share are counted separately.
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
from ngram_mlp.callbacks import inspection
from ngram_mlp.cli.train import main

INTERVALS, UPDATES = sys.argv[1], sys.argv[2]
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
seconds = dict.fromkeys(["fit", "the snapshots", *OBSERVERS], 0.0)
running = []  # innermost last, so that nested calls are counted once


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
inspection.take_snapshot = timed(inspection.take_snapshot, "the snapshots")
for name in OBSERVERS:
    kind = getattr(callbacks, name)
    for hook in ("on_train_start", "observe", "draw", "conclude", "on_train_end"):
        if hasattr(kind, hook):
            setattr(kind, hook, timed(getattr(kind, hook), name))
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    arguments = ["--runs_dir", folder, "--engine", "fused", "--trainer.max_steps", UPDATES]
    arguments += ["--trainer.accelerator", "cpu", "--observe.every_n_updates", INTERVALS]
    main(PROJECT / "configs" / "default.yaml", arguments)
print(json.dumps(seconds))
