"""Importing changes nothing but what it imports."""

import subprocess
import sys

BEFORE = """
import gc, signal, sys, threading
import numpy, random, torch, pytorch_lightning  # which change what they like
def state():
    return {
        "finders": list(sys.meta_path),
        "modules": {name: module for name, module in sys.modules.items() if name in others},
        "collector": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "threads": (threading.active_count(), torch.get_num_threads()),
        "random states": (random.getstate(), torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist()),
        "hooks": (sys.excepthook, threading.excepthook),
    }
others = set(sys.modules)
before = state()
"""
AFTER = """
after = state()
assert not [name for name in before if after[name] != before[name]]
"""


def test_importing_changes_nothing():
    statements = f"{BEFORE}\nimport ngram_mlp, runlab\n{AFTER}"
    subprocess.run([sys.executable, "-W", "ignore", "-c", statements], check=True, timeout=120)


def test_commands_start_without_what_waits():
    code = """
import sys
from runlab import quick_start
quick_start()
from ngram_mlp.cli import check, evaluate, sample, train
assert "eval_frame" not in vars(sys.modules["torch._dynamo"])
assert "functional" not in vars(sys.modules["torchmetrics"])
assert "matplotlib" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)
