"""Decides which messages of Lightning, torch and the libraries the console shows."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

import runlab
from ngram_mlp.processes import rank
from runlab import ConsoleHandler, full_disk


def open_console() -> Console:
    """Returns a console that shows this package's messages and Lightning's warnings, in the first process only.

    Also hides Lightning's information messages, and warnings about its own internals.
    """
    console = runlab.open_console(("ngram_mlp", "multistep", "runlab"), quiet=rank() > 0)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # the user asked for its table
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # no warning about a missing CUDA runtime
    _show_engines(console)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # internal to Lightning
    warnings.filterwarnings("ignore", message=".*sync_dist=True")  # every process evaluates the whole split
    warnings.filterwarnings("ignore", message="The number of training batches")  # logging counts updates across epochs
    warnings.filterwarnings(
        "ignore", message="Be aware that when using `ckpt_path`"
    )  # e.g. when resuming without the observing callbacks
    return console


def _show_engines(console: Console) -> None:
    """Limits Lightning's rank-zero logger to warnings and the lines that name the engine."""
    told = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    handler = ConsoleHandler(console)
    handler.addFilter(lambda record: record.levelno > logging.INFO or record.getMessage().startswith("engine "))
    told.setLevel(logging.INFO)
    told.handlers, told.propagate = [handler], False


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Suppresses tracebacks of threads on a full disk: TensorBoard's writer prints one, then raises in this thread."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if full_disk(args.exc_value) is None:
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
