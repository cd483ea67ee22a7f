"""The console of the commands, and what of the libraries' talk appears on it."""

import logging
import warnings

from rich.console import Console

from ngram_mlp.processes import rank

__all__ = ["open_console"]


def open_console() -> Console:
    """A console that, in the first process, shows this package's own words, and of Lightning's what is a warning."""
    console = Console(soft_wrap=True, markup=False, highlight=False, quiet=rank() > 0)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)  # its table is what was asked for
    own = logging.getLogger("ngram_mlp")
    own.setLevel(logging.INFO)
    own.handlers = [_ConsoleHandler(console)]
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own affair
    warnings.filterwarnings("ignore", message="`max_epochs` was not set")  # refused in our own words
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")  # --observe.cadence off, say
    return console


class _ConsoleHandler(logging.Handler):
    """Prints what the package tells of its doing, above the progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(record.getMessage())
