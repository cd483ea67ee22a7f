"""Prepares the fork server once, before its first run, so that no run has to repeat the work.

Imports what training needs, and parses a command line once, because the parser caches what it learns about classes. It
must not start a thread: threads do not survive in the forked runs.
"""

from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path

import torch
import torch.utils.tensorboard  # Lightning imports it when it first logs

from ngram_mlp.cli import train  # noqa: F401  # the command of a run
from ngram_mlp.cli.train_cli import TrainCLI
from ngram_mlp.console import open_console
from runlab import train_all  # noqa: F401  # its module has the function that starts a run

torch.set_num_threads(1)
open_console()  # hides Lightning's information messages
with suppress(Exception, SystemExit), redirect_stderr(StringIO()):  # the runs report any error
    TrainCLI(["--model", "BatchNormMLP", "--data.corpus", "sample", "--seed_everything", "1"], default_config=Path())
