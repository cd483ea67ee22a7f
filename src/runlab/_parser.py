"""Defines parsers that report an error in one line and suggest the nearest option for a misspelt one."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from runlab._called import usage
from runlab._config_files import Setting, setting_of
from runlab._mistakes import about_import, about_memory, about_value, exit_with, in_one_line, mistake_in
from runlab._options import options_in
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
        if found := re.match('Parser key "(.+?)"', message):
            kind = self._kinds().get(found[1], kind)
        if getattr(self, "_inner_parser", False):
            raise _Nested(message, ex, kind)
        if line := mistake_in(ex, self.typed) or about_memory(ex) or about_import(ex):
            exit_with(line)
        cause, key = _first_cause(ex) or message, found[1] if found else None
        unknown = re.search("[Oo]ption '(.+?)'", cause)
        setting = self._in_a_file(unknown[1] if unknown else key, "" if unknown else cause)
        typed = [f"--{setting.option}", setting.value] if setting else self.typed
        line = about_value(key, kind, typed) if key and not unknown else None
        line = line or in_one_line(cause, typed, self._known(), key)
        exit_with(f"{setting.file}: {line.removeprefix('--')}" if setting else line)

    def _in_a_file(self, key: str | None, cause: str) -> Setting | None:
        """Returns the setting of an option, given by its last words, in a configuration file, if that is at fault.

        It is if the option was not typed, or if the message about the cause, unless empty, has its value alone.
        """
        options = options_in(self.typed).items()
        typed = [value for one, value in options if key and f".{key}." in f".{one.lstrip('-')}."]
        if key is None or any(not cause or _is_in(value, cause) for value in typed):
            return None
        parser = PlainParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--config", action="append", default=[])
        files = [*map(str, self.default_config_files), *parser.parse_known_args(self.typed)[0].config]
        setting = setting_of(key, files)
        return setting if setting is None or not cause or _is_in(setting.value, cause) else None

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
        except (SystemExit, argparse.ArgumentError):  # the mistake is in the file of defaults
            keys = [*self._kinds()]
        return [*dict.fromkeys(f"--{key}" for key in keys)]


def _is_in(value: str, message: str) -> bool:
    """Returns whether a message has a value that is not part of a longer one."""
    return re.search(rf"(?<![\w.]){re.escape(value)}(?![\w.])", message) is not None


def _first_cause(error: BaseException | None) -> str:
    """Returns the message of the first exception in a chain; the last one repeats every attempt to read a value."""
    while error is not None and (error.__cause__ or error.__context__) is not None:
        error = error.__cause__ or error.__context__
    return str(error or "")
