"""Several processes that train one module."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys
import torch
sys.path.insert(0, {root!r})
from tests.multistep.training import Classifier, examples, train
from torch.utils.data import DataLoader

engine, accumulate = sys.argv[1], int(sys.argv[2])
found = train(
    Classifier, None if engine == "ordinary" else engine, lambda: DataLoader(examples(), 8, shuffle=True),
    strategy="ddp", devices=2, max_epochs=9, accumulate_grad_batches=accumulate,
)
if found.trainer.is_global_zero:
    weights = {{name: value.flatten().tolist() for name, value in found.module.state_dict().items()}}
    used = found.multistep and [found.multistep.engine_used, found.multistep.reason]
    print("FOUND", json.dumps([weights, found.metrics, found.trainer.global_step, used]))
"""


def run(folder: Path, *args: str) -> list:
    script = folder / "script.py"
    script.write_text(SCRIPT.format(root=str(Path(__file__).resolve().parents[2])), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), *args], env=environment, capture_output=True, text=True, check=False
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("FOUND ")), None)
    assert line is not None, done.stderr
    return json.loads(line.removeprefix("FOUND "))


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", ["1", "3"])
def test_ddp_is_eager_with_the_bits_of_ordinary_ddp(tmp_path, accumulate):
    *ordinary, _ = run(tmp_path, "ordinary", accumulate)
    *found, (engine, reason) = run(tmp_path, "auto", accumulate)
    assert (engine, reason) == ("eager", "several processes exchange their gradients at every update")
    assert found == ordinary
