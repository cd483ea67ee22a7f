"""The environment of these tests: they know torch and Lightning, and nothing of the template."""

import atexit
import os
import shutil
import tempfile

import pytest
import torch

from multistep import _choice
from multistep._fused import FusedEngine

if "MULTISTEP_CACHE_DIR" not in os.environ:  # what one test compiles, the others load
    os.environ["MULTISTEP_CACHE_DIR"] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, os.environ["MULTISTEP_CACHE_DIR"], ignore_errors=True)
torch.set_num_threads(1)


@pytest.fixture
def always_compile(monkeypatch):
    """Has `auto` compile even what is trained for less time than that takes."""
    monkeypatch.setattr(_choice, "FEW", 0)
    monkeypatch.setattr(FusedEngine, "pays_from", lambda engine: 0)
