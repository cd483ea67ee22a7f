"""Manages training runs: the folder, lock and command line of one run, and studies and searches of many.

A run is one call of a LightningCLI script. `runlab` gives the script a folder that no other process writes to,
one-line errors, and a process that watches it, and trains many runs side by side. Studies and searches import neither
torch nor Lightning: they work through command lines, files and a pipe.

Each name is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runlab._artist import Artist as Artist
    from runlab._called import as_typed as as_typed
    from runlab._called import called as called
    from runlab._called import from_here as from_here
    from runlab._called import program as program
    from runlab._channel import watcher as watcher
    from runlab._command import ConsoleHandler as ConsoleHandler
    from runlab._command import command as command
    from runlab._command import open_console as open_console
    from runlab._command import show as show
    from runlab._config_files import read_configuration as read_configuration
    from runlab._drawing import CLOSE as CLOSE
    from runlab._drawing import PARTS as PARTS
    from runlab._drawing import Losses as Losses
    from runlab._drawing import Picture as Picture
    from runlab._drawing import draw as draw
    from runlab._drawing import figure_with_panels as figure_with_panels
    from runlab._drawing import legend_below as legend_below
    from runlab._drawing import plain_ticks as plain_ticks
    from runlab._drawing import smoothed as smoothed
    from runlab._errors import Diverged as Diverged
    from runlab._errors import UserError as UserError
    from runlab._errors import full_disk as full_disk
    from runlab._errors import printable as printable
    from runlab._errors import require_at_least as require_at_least
    from runlab._errors import shortened as shortened
    from runlab._files import LAST as LAST
    from runlab._files import claim_run_folder as claim_run_folder
    from runlab._files import remove_folder as remove_folder
    from runlab._files import rewind as rewind
    from runlab._files import write_atomically as write_atomically
    from runlab._lock import Occupied as Occupied
    from runlab._lock import alone_in as alone_in
    from runlab._mistakes import about_import as about_import
    from runlab._mistakes import about_memory as about_memory
    from runlab._mistakes import exit_with as exit_with
    from runlab._options import flattened as flattened
    from runlab._options import from_environment as from_environment
    from runlab._options import words_for as words_for
    from runlab.many._compare import compare as compare
    from runlab.many._figures import loss_bands_figure as loss_bands_figure
    from runlab.many._pool import train_all as train_all
    from runlab.many._report import paired_interval as paired_interval
    from runlab.many._run import Run as Run
    from runlab.many._runs import list_runs as list_runs
    from runlab.many._script import Script as Script
    from runlab.many._script import cores as cores
    from runlab.many._search import search_command as search_command
    from runlab.many._searching import Search as Search
    from runlab.many._trials import Goal as Goal
    from runlab.one._checkpoint import Checkpoint as Checkpoint
    from runlab.one._checkpoint import CheckpointFiles as CheckpointFiles
    from runlab.one._checkpoint import Parts as Parts
    from runlab.one._checkpoint import add_parts as add_parts
    from runlab.one._checkpoint import read_checkpoint as read_checkpoint
    from runlab.one._parser import Parser as Parser
    from runlab.one._parser import ShowTrainer as ShowTrainer
    from runlab.one._quick_start import quick_start as quick_start
    from runlab.one._resuming import cannot_resume as cannot_resume
    from runlab.one._resuming import changed_options as changed_options
    from runlab.one._resuming import refuse_finished as refuse_finished
    from runlab.one._resuming import split_arguments as split_arguments
    from runlab.one._run_checkpoints import Interrupted as Interrupted
    from runlab.one._run_checkpoints import RunCheckpoints as RunCheckpoints
    from runlab.one._supervised import Supervised as Supervised
    from runlab.one._supervised import updates_of as updates_of

_HOMES = {
    "_artist": "Artist",
    "_called": "as_typed called from_here program",
    "_channel": "watcher",
    "_command": "ConsoleHandler command open_console show",
    "_config_files": "read_configuration",
    "_drawing": "CLOSE PARTS Losses Picture draw figure_with_panels legend_below plain_ticks smoothed",
    "_errors": "Diverged UserError full_disk printable require_at_least shortened",
    "_files": "LAST claim_run_folder remove_folder rewind write_atomically",
    "_lock": "Occupied alone_in",
    "_mistakes": "about_import about_memory exit_with",
    "_options": "flattened from_environment words_for",
    "many._compare": "compare",
    "many._figures": "loss_bands_figure",
    "many._pool": "train_all",
    "many._report": "paired_interval",
    "many._run": "Run",
    "many._runs": "list_runs",
    "many._script": "Script cores",
    "many._search": "search_command",
    "many._searching": "Search",
    "many._trials": "Goal",
    "one._checkpoint": "Checkpoint CheckpointFiles Parts add_parts read_checkpoint",
    "one._parser": "Parser ShowTrainer",
    "one._quick_start": "quick_start",
    "one._resuming": "cannot_resume changed_options refuse_finished split_arguments",
    "one._run_checkpoints": "Interrupted RunCheckpoints",
    "one._supervised": "Supervised updates_of",
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"runlab.{_MODULES[name]}"), name)
