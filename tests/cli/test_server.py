import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_server_of_a_study_has_parsed_a_command_line_without_a_word_and_without_a_thread(tmp_path):
    """Threads would not live on in the runs that are forked from it; those of numpy's OpenBLAS are begun anew there."""
    code = """
import threading
from pathlib import Path
import ngram_mlp.cli.server
assert threading.active_count() == 1
tasks = Path("/proc/self/task")  # with those of torch
assert not tasks.exists() or len(list(tasks.iterdir())) == 1
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())
