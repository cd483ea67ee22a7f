"""The console of the commands: which words of Lightning, of torch and of the libraries it shows."""

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
    """Returns a console for the first process alone, which shows this package's own words and Lightning's warnings.

    Lightning's information is no longer shown, nor are warnings that are about its own affairs.
    """
    console = runlab.open_console(("ngram_mlp", "multistep", "runlab"), quiet=rank() > 0)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # its table is what was asked for
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no CUDA runtime
    _show_engines(console)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own affair
    warnings.filterwarnings("ignore", message=".*sync_dist=True")  # every process evaluates the whole split
    warnings.filterwarnings("ignore", message="The number of training batches")  # logs are counted over all epochs
    warnings.filterwarnings(
        "ignore", message="Be aware that when using `ckpt_path`"
    )  # as without callbacks that observe
    return console


def _show_engines(console: Console) -> None:
    """Has the console show which engine trains, of all that is printed in Lightning's name."""
    told = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    handler = ConsoleHandler(console)
    handler.addFilter(lambda record: record.levelno > logging.INFO or record.getMessage().startswith("engine "))
    told.setLevel(logging.INFO)
    told.handlers, told.propagate = [handler], False


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Silences threads about a full disk: TensorBoard's writer prints a traceback before it raises in this one."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if full_disk(args.exc_value) is None:
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
