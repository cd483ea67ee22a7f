"""What the fork server does once, before the first run, so that no run has to repeat it.

It imports what a training needs, and parses a command line once, since the parser keeps what it finds out about
classes. It may not start a thread, as none would live on in the runs.
"""

from contextlib import suppress
from pathlib import Path

import torch
import torch.utils.tensorboard  # which Lightning imports when it first logs

from ngram_mlp.cli import train  # noqa: F401  # the command of a run
from ngram_mlp.cli.train_cli import TrainCLI
from ngram_mlp.console import open_console
from runlab import train_all  # noqa: F401  # whose module has the function that a run begins with

torch.set_num_threads(1)
open_console()  # Lightning says what it is doing otherwise
with suppress(Exception, SystemExit):  # what is wrong is said by the runs
    TrainCLI(["--model", "BatchNormMLP", "--data.corpus", "sample", "--seed_everything", "1"], default_config=Path())
