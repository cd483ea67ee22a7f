"""The parser of a LightningCLI: errors in one line, and a help that begins with what one looks for."""

import argparse
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from runlab._parser import OneLineParser


class Parser(OneLineParser, LightningArgumentParser):
    """A parser that reports an error in one line, with the nearest option where one was misspelt.

    Its help leaves the options of Lightning's trainer to `--help.trainer`, which adds some 400 lines.
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
    """`--help.trainer`: prints the options of Lightning's trainer, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        assert isinstance(parser, Parser)
        parser.shows_trainer = True
        parser.print_help()
        parser.exit()
