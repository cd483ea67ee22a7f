"""The parsers of the commands: errors in one line, and a help that begins with what one looks for."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import DefaultHelpFormatter, Namespace, set_parsing_settings
from pytorch_lightning.cli import LightningArgumentParser

from ngram_mlp.cli.called import usage
from ngram_mlp.cli.mistakes import (
    about_memory,
    about_missing,
    about_unknown,
    as_typed,
    exit_with,
    mistake_in,
    remember_options,
)

set_parsing_settings(add_print_completion_argument=True)
# Defaults that say nothing: the address of a function, and a model with all of its options.
NOISE = re.compile(r",? ?default: (<function .*? at 0x\w+>|\{'class_path': 'ngram_mlp.*\}(?=, known))")


class PlainParser(argparse.ArgumentParser):
    """For what jsonargparse's cannot do: leave the options alone that it does not know."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(prog=usage(), **kwargs)

    def error(self, message: str) -> NoReturn:
        exit_with(message)


class HelpFormatter(DefaultHelpFormatter):
    """Jsonargparse's, without the defaults that say nothing."""

    def _expand_help(self, action: argparse.Action) -> str:
        return NOISE.sub("", super()._expand_help(action))


class Parser(LightningArgumentParser):
    """A parser that reports an error in one line, with the nearest option where one was misspelt.

    Its help leaves the options of Lightning's trainer to `--help.trainer`, which adds some 400 lines.
    """

    shows_trainer = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, "prog": usage(), **kwargs})

    def parse_args(self, args: Sequence[str] | None = None, **kwargs: Any) -> Namespace:  # type: ignore[override]
        args = sys.argv[1:] if args is None else args
        if not getattr(self, "_inner_parser", False):  # one for nested options
            remember_options(args, self)
        return super().parse_args(args, **kwargs)

    def format_help(self, *args: Any) -> str:
        everything: Any = self._action_groups

        def is_trainers(group: Any) -> bool:
            return any(action.dest.startswith("trainer.") for action in group._group_actions)

        self._action_groups = [group for group in everything if is_trainers(group) == self.shows_trainer]
        try:
            return str(super().format_help(*args))
        finally:
            self._action_groups = everything

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = mistake_in(ex) or about_memory(message) or " ".join(message.split())
        if found := re.match(r"(?:[Uu]nrecognized arguments: (?=--)|Option ')([^ =']+)", line):
            line = about_unknown(as_typed(found[1]))
        elif found := re.match(r"[Uu]nrecognized arguments: (\S+)", line):
            line = f"{found[1]}: is no option; there are no subcommands, and options begin with --"
        elif "ReduceLROnPlateau" in line:  # of which there are two, of torch and of Lightning
            line = f"{as_typed('lr_scheduler')} ReduceLROnPlateau: give torch.optim.lr_scheduler.ReduceLROnPlateau"
        elif found := re.match(r"the following arguments are required: (.*)", line):
            line = about_missing(found[1])
        elif found := re.match(r'Parser key "([^"]+)": (.*)', line):
            reason = "is a group of options; set them one by one" if "Unable to load config" in line else found[2]
            line = _about_types(as_typed(found[1]), reason) or f"{as_typed(found[1])}: {reason}"
        exit_with(line)


def _about_types(option: str, reason: str) -> str | None:
    """The line about a word that is of none of the types that an option takes; None for another reason."""
    found = re.search(r"against any of the Union subtypes Subtypes: \[(.*)\] Errors: .*Given value: (.*)$", reason)
    if found is None or "<class 'str'> Given value" not in reason:
        return None
    literals = re.findall(r"Literal\[(.*?)\]", found[1])
    choices = [word.strip("' ") for literal in literals for word in literal.split(",")]
    kinds = [name for name in re.findall(r"<class '(?:\w+\.)*(\w+)'>", found[1]) if name != "NoneType"]
    expected = [*dict.fromkeys(choices), *(f"a class of the kind {name}" for name in kinds if name[0].isupper())]
    expected += ["true", "false"] if "bool" in kinds else []
    return f"{option} {found[2]}: give one of {', '.join(expected)}" if expected else None


class ShowTrainer(argparse.Action):
    """`--help.trainer`: prints the options of Lightning's trainer, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        assert isinstance(parser, Parser)
        parser.shows_trainer = True
        parser.print_help()
        parser.exit()
