"""Parsers that report an error in one line, with the nearest option where one was misspelt."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from runlab._called import usage
from runlab._mistakes import about_memory, exit_with, in_one_line, mistake_in

set_parsing_settings(add_print_completion_argument=True)
# Defaults that say nothing: the address of a function, and a model with all of its options.
NOISE = re.compile(r",? ?default: (<function .*? at 0x\w+>|\{'class_path': .*\}(?=, known))")


class PlainParser(argparse.ArgumentParser):
    """For what jsonargparse's cannot do: leave the options alone that it does not know."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(prog=usage(), **kwargs)

    def error(self, message: str) -> NoReturn:
        exit_with(message)


class _Nested(SystemExit):
    """The error of a parser within another, which knows the options as they were typed."""


class HelpFormatter(DefaultHelpFormatter):
    """Jsonargparse's, without the defaults that say nothing."""

    def _expand_help(self, action: argparse.Action) -> str:
        return NOISE.sub("", super()._expand_help(action))


class OneLineParser(ArgumentParser):
    """Jsonargparse's, whose errors are one line."""

    typed: Sequence[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, "prog": usage(), **kwargs})

    def parse_args(self, args: Sequence[str] | None = None, **kwargs: Any) -> Namespace:  # type: ignore[override]
        if getattr(self, "_inner_parser", False):  # of a class that an option names
            return super().parse_args(args, **kwargs)
        self.typed = sys.argv[1:] if args is None else [*args]
        try:
            return super().parse_args(self.typed, **kwargs)
        except _Nested as nested:
            self.error(*nested.args)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if getattr(self, "_inner_parser", False):
            raise _Nested(message, ex)
        memory = about_memory(ex) if ex is not None else None
        exit_with(mistake_in(ex, self.typed) or memory or in_one_line(message, self.typed, self._known()))

    def _known(self) -> list[str]:
        """The options that there are, with those of the classes that are the defaults."""
        keys = [key.replace(".init_args", "") for key, _ in self.get_defaults().items()]
        return [*dict.fromkeys(f"--{key}" for key in keys)]
