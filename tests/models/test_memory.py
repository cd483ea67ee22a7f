"""The memory of an update, as it is told and as a process takes it."""

import subprocess
import sys

import pytest

from ngram_mlp.models import MLP, BatchNormMLP, LanguageModel
from ngram_mlp.models.memory import bytes_of_an_update

CHARACTERS = ".abcdefghijklmnopqrstuvwxyz"
MEASURED = r"""
import re, torch
from pathlib import Path
import torch.nn.functional as F
from ngram_mlp.models import MLP, BatchNormMLP
model = {name}("{characters}", block_size=3)
contexts = torch.zeros(100_000, 3, dtype=torch.long)
F.cross_entropy(model(contexts[:10]), contexts[:10, 0]).backward()
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
F.cross_entropy(model(contexts), contexts[:, 0]).backward()
print(1024 * (peak() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only there a process tells its peak")
@pytest.mark.parametrize("variant", [pytest.param(MLP, marks=pytest.mark.slow), BatchNormMLP])
def test_the_memory_of_an_update_is_known_before_it_is_taken(variant: type[LanguageModel]) -> None:
    told = bytes_of_an_update(variant(CHARACTERS, block_size=3), 100_000)
    code = MEASURED.format(name=variant.__name__, characters=CHARACTERS)
    taken = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.6 * taken < told < 1.3 * taken
