"""The environment of these tests: they know torch and Lightning, and nothing of the template."""

import atexit
import os
import shutil
import tempfile

import torch

if "MULTISTEP_CACHE_DIR" not in os.environ:  # what one test compiles, the others load
    os.environ["MULTISTEP_CACHE_DIR"] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, os.environ["MULTISTEP_CACHE_DIR"], ignore_errors=True)
torch.set_num_threads(1)
