"""Runs the installed command `ngram-mlp`; its first argument names the subcommand."""

import sys
from importlib import import_module

from ngram_mlp import __version__
from ngram_mlp.places import DEFAULT_CONFIG
from runlab import exit_with, quick_start

COMMANDS = {
    "train": "train a model, and report the results",
    "check": "judge a network before its first update",
    "evaluate": "print the losses of a checkpoint",
    "sample": "sample words from a checkpoint",
    "compare": "compare recipes over several seeds",
    "runs": "list runs with their differences and results",
    "search": "search a space for the best recipe",
}
WITHOUT_TORCH = ("compare", "runs", "search")
# Arguments that these commands take before those of the command line.
TAKES = {"train": (DEFAULT_CONFIG,), "check": (DEFAULT_CONFIG,)}


def main() -> None:
    """Calls the command that the first argument names, with the remaining arguments."""
    name, *args = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        about = "\n".join(f"  {command:10}{does}" for command, does in COMMANDS.items())
        print(f"usage: ngram-mlp COMMAND [--help] [--OPTION VALUE ...]\n\n{about}")
    elif name == "--version":
        print(f"ngram-mlp {__version__}")
    elif name in COMMANDS:
        if name not in WITHOUT_TORCH:
            quick_start()
        import_module(f"ngram_mlp.cli.{name}").main(*TAKES.get(name, ()), args)
    else:
        exit_with(f"{name} is not a command; choose one of {', '.join(COMMANDS)}")


if __name__ == "__main__":
    main()
