"""Defines parsers that report an error in one line and suggest the nearest option for a misspelt one."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from runlab._called import usage
from runlab._mistakes import about_import, about_memory, about_value, exit_with, in_one_line, mistake_in
from runlab._wanted import is_whole

set_parsing_settings(add_print_completion_argument=True)
# Noise in a help text: a default that is a function's address or a model with all its options, the words of a Literal,
# which the option's line repeats, and the known subclasses of a list that is empty by default.
NOISE = re.compile(
    r",? ?default: (<function .*? at 0x\w+>|\{'class_path': .*\}(?=, known))"
    r"|type: Literal\[.*?\], (?=default)|(?<=default: \[\]), known subclasses: .*?(?=\))"
)
WHOLE = re.compile(r"[+-]?\d+(\.\d+)?[eE]\+?\d{1,2}")  # a number that may be whole, such as 2e3


class PlainParser(argparse.ArgumentParser):
    """Argparse's parser with one-line errors. Unlike jsonargparse's, it can leave unknown options alone."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(prog=usage(), **kwargs)

    def error(self, message: str) -> NoReturn:
        exit_with(message)


class _Nested(SystemExit):
    """The error of an inner parser, raised to the outer one, which knows the options as typed."""


class HelpFormatter(DefaultHelpFormatter):
    """Jsonargparse's formatter, without NOISE."""

    def _expand_help(self, action: argparse.Action) -> str:
        return NOISE.sub("", super()._expand_help(action))


class OneLineParser(ArgumentParser):
    """Jsonargparse's parser with one-line errors."""

    typed: Sequence[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, "prog": usage(), **kwargs})

    def parse_args(self, args: Sequence[str] | None = None, **kwargs: Any) -> Namespace:  # type: ignore[override]
        if getattr(self, "_inner_parser", False):  # for the class that an option names
            return super().parse_args(args, **kwargs)
        self.typed = sys.argv[1:] if args is None else [*args]
        try:
            return super().parse_args(self._with_whole_numbers(self.typed), **kwargs)
        except _Nested as nested:
            self.error(*nested.args)

    def error(self, message: str, ex: Exception | None = None, kind: Any = None) -> NoReturn:
        if key := re.match('Parser key "(.+?)"', message):
            kind = self._kinds().get(key[1], kind)
        if getattr(self, "_inner_parser", False):
            raise _Nested(message, ex, kind)
        line = mistake_in(ex, self.typed) or about_memory(ex) or about_import(ex)
        line = line or (about_value(key[1], kind, self.typed) if key else None)
        exit_with(line or in_one_line(_first_cause(ex) or message, self.typed, self._known(), key and key[1]))

    def _kinds(self) -> dict[str, Any]:
        """Returns the types of the options by name."""
        return {action.dest: getattr(action, "_typehint", action.type) for action in self._actions}

    def _with_whole_numbers(self, words: Sequence[str]) -> list[str]:
        """Returns the words with 2e3 written as 2000, except for options known to take no whole number."""
        found, kinds, option = [], self._kinds(), ""
        for word in words:
            option = word if word.startswith("--") else option
            name, given, value = word.partition("=") if word.startswith("--") else (option, "", word)
            is_number = WHOLE.fullmatch(value) and float(value).is_integer()
            if is_number and is_whole(kinds.get(name.lstrip("-"), int)):
                word = f"{name}={int(float(value))}" if given else str(int(float(value)))
            found.append(word)
        return found

    def _known(self) -> list[str]:
        """Returns all options, including those of the default classes."""
        try:
            keys = [key.replace(".init_args", "") for key, _ in self.get_defaults().items()]
        except SystemExit:  # the mistake is in the file of defaults
            return []
        return [*dict.fromkeys(f"--{key}" for key in keys)]


def _first_cause(error: BaseException | None) -> str:
    """Returns the message of the first exception in a chain; the last one repeats every attempt to read a value."""
    while error is not None and (error.__cause__ or error.__context__) is not None:
        error = error.__cause__ or error.__context__
    return str(error or "")
