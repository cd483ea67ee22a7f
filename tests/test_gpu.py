"""What holds on a GPU; only where there is one."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.conftest import ENVIRONMENT, PROJECT

ON_A_MAC = sys.platform == "darwin" and platform.machine() == "arm64"
GPU = "cuda" if shutil.which("nvidia-smi") else "mps" if ON_A_MAC else None
pytestmark = [pytest.mark.slow, pytest.mark.skipif(GPU is None, reason="needs a GPU")]
SHORT = ("--data.corpus", "sample", "--trainer.max_steps", "60", "--trainer.val_check_interval", "30")
QUIET = ("--observe.every_n_updates", "off")


CALL = """
import json, sys
from ngram_mlp.cli import evaluate, sample, train
from ngram_mlp.places import DEFAULT_CONFIG
takes = {"train": (train.main, DEFAULT_CONFIG), "evaluate": (evaluate.main,), "sample": (sample.main,)}
for name, *arguments in json.loads(sys.argv[1]):
    main, *given = takes[name]
    main(*given, arguments)
"""


@pytest.fixture
def call(tmp_path):
    """Calls commands, one after the other in a process that sees the GPU; returns what they printed."""

    def call(*commands, status=0):
        path = [str(PROJECT / "src"), ENVIRONMENT.get("PYTHONPATH", "")]
        out = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CALL, json.dumps(commands)],
            cwd=tmp_path,
            env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert out.returncode == status, out.stdout + out.stderr
        return out.stdout + out.stderr

    return call


def training(name, *args):
    """A command that trains on the GPU, unless the arguments say otherwise."""
    return ["train", *SHORT, "--trainer.accelerator", "gpu", "--name", name, *args]


@pytest.fixture
def folder(tmp_path):
    return lambda name: tmp_path / "runs" / name / "version_0"


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")["state_dict"]


def losses(folder):
    return np.load(folder / "losses.npy")


def same(one, other):
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


@pytest.mark.parametrize("model", ["BatchNormMLP", "MLP", "WaveNet --data.block_size 8"])
def test_a_gpu_trains_what_the_cpu_trains_and_engines_and_observers_change_no_bit(model, call, folder):
    quiet, eager = ("--model", *model.split(), *QUIET), ("--engine", "eager")
    out = call(
        training("cpu", *quiet, *eager, "--trainer.accelerator", "cpu"),
        training("gpu", *quiet, *eager),
        training("lightning", *quiet, "--engine", "lightning"),
        training("observed", "--model", *model.split(), *eager, "--observe.every_n_updates", "10/20/30"),
    )
    assert f"run     runs/gpu/version_0, on {GPU}" in out
    assert "switched off" not in out
    np.testing.assert_allclose(losses(folder("gpu")), losses(folder("cpu")), rtol=2e-3)
    assert losses(folder("gpu"))[0] == pytest.approx(losses(folder("cpu"))[0], rel=1e-5)
    assert same(folder("gpu"), folder("lightning"))
    assert same(folder("gpu"), folder("observed"))
    assert (folder("observed") / "figures" / "loss.png").exists()


def test_a_run_is_resumed_on_a_gpu_to_the_same_bits_and_judged_on_the_cpu(call, folder):
    eager = (*QUIET, "--engine", "eager")
    out = call(
        training("whole", *eager),
        training("cut", *eager, "--trainer.max_steps", "30"),
        ["train", "--resume", "runs/cut/version_0", "--trainer.max_steps", "60"],
        ["evaluate", "--ckpt_path", "runs/cut/version_0"],
        ["sample", "--ckpt_path", "runs/cut/version_0", "--num", "5"],
    )
    assert same(folder("whole"), folder("cut"))
    assert np.array_equal(losses(folder("whole")), losses(folder("cut")))
    there, *_, here = (float(loss) for loss in re.findall(r"│ val +│ ([\d.]+)", out))
    assert here == pytest.approx(there, abs=2e-4)


def test_precisions_averages_clipping_and_calibration_train_on_a_gpu(call, folder):
    precisions = ["bf16-mixed", "16-mixed", *(["64-true"] if GPU == "cuda" else [])]
    averaged = ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay", "0.9")
    more = (*averaged, "--trainer.gradient_clip_val", "1.0", "--trainer.accumulate_grad_batches", "2")
    call(
        training("reference", *QUIET, "--statistics", "calibrated"),
        *(training(precision, *QUIET, "--trainer.precision", precision) for precision in precisions),
        training("more", *QUIET, *more),
        training("cpu", *QUIET, *more, "--trainer.accelerator", "cpu", "--engine", "eager"),
    )
    for precision in precisions:
        np.testing.assert_allclose(losses(folder(precision)), losses(folder("reference")), rtol=0.05)
    for name, value in weights(folder("more")).items():
        torch.testing.assert_close(value, weights(folder("cpu"))[name], rtol=1e-2, atol=1e-3, msg=name)


def test_auto_takes_the_cpu_for_a_small_network_and_the_gpu_for_a_large_one(call):
    auto = (*QUIET, "--trainer.accelerator", "auto", "--trainer.max_steps", "3")
    large = ("--model.n_hidden", "3000", "--model.n_layers", "3", "--data.batch_size", "1024")
    out = call(training("small", *auto), training("large", *auto, *large))
    assert "accelerator  cpu: a GPU pays off from " in out
    assert "run     runs/small/version_0, on cpu" in out
    assert f"run     runs/large/version_0, on {GPU}" in out


def test_the_fused_engine_is_refused_on_a_gpu_with_a_line(call):
    line = call(training("refused", *QUIET, "--engine", "fused"), status=2).splitlines()[-1]
    assert f"compiled code runs on the CPU, not on {GPU}; use auto or eager" in line
