"""Parsers that report an error in one line, with the nearest option where one was misspelt."""

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
# What says nothing: as defaults, the address of a function, and a model with all of its options; words that the
# option's line names, too; and the classes, everybody's own among them, that may stand in a list.
NOISE = re.compile(
    r",? ?default: (<function .*? at 0x\w+>|\{'class_path': .*\}(?=, known))"
    r"|type: Literal\[.*?\], (?=default)|(?<=default: \[\]), known subclasses: .*?(?=\))"
)
WHOLE = re.compile(r"[+-]?\d+(\.\d+)?[eE]\+?\d{1,2}")  # a whole number as some write it, such as 2e3


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
        """The types of the options, by their names."""
        return {action.dest: getattr(action, "_typehint", action.type) for action in self._actions}

    def _with_whole_numbers(self, words: Sequence[str]) -> list[str]:
        """The words with 2000 for 2e3, but where an option is known to take no whole number."""
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
        """The options that there are, with those of the classes that are the defaults."""
        try:
            keys = [key.replace(".init_args", "") for key, _ in self.get_defaults().items()]
        except SystemExit:  # the mistake is in the file of the defaults
            return []
        return [*dict.fromkeys(f"--{key}" for key in keys)]


def _first_cause(error: BaseException | None) -> str:
    """What the first of a chain of exceptions says; the last repeats all attempts to read a value."""
    while error is not None and (error.__cause__ or error.__context__) is not None:
        error = error.__cause__ or error.__context__
    return str(error or "")
