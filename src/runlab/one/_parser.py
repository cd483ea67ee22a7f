"""Defines the parser of a LightningCLI, with one-line errors and a short help."""

import argparse
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from runlab._parser import OneLineParser


class Parser(OneLineParser, LightningArgumentParser):
    """A parser that reports an error in one line and suggests the nearest option for a misspelt one.

    Its help leaves the trainer's options, some 400 lines, to `--help.trainer`.
    """

    shows_trainer = False

    def format_help(self, *args: Any) -> str:
        everything: Any = self._action_groups

        def is_trainers(group: Any) -> bool:
            return any(action.dest.startswith("trainer.") for action in group._group_actions)

        self._action_groups = [group for group in everything if is_trainers(group) == self.shows_trainer]
        try:
            return str(super().format_help(*args))
        finally:
            self._action_groups = everything


class ShowTrainer(argparse.Action):
    """`--help.trainer`: prints the options of Lightning's trainer and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        assert isinstance(parser, Parser)
        parser.shows_trainer = True
        parser.print_help()
        parser.exit()
