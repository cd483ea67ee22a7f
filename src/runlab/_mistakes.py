"""Reports a user's mistakes in one line, with options named as typed and the likely intended one."""

import sys
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any, NoReturn

from runlab._errors import UserError, printable
from runlab._options import options_in
from runlab._wanted import classes_of, in_words

LONGEST = 400  # characters of a library's message
ALIKE = 0.65  # the similarity from which one word may be a misspelling of another


def mistake_in(error: BaseException | None, typed: Sequence[str]) -> str | None:
    """Returns the line about the user's mistake behind an error, which a library may have wrapped; None for a bug.

    Args:
        error: the exception raised.
        typed: the words of the command line, which may contain the option at fault.
    """
    while error is not None and not (isinstance(error, UserError) or _is_a(error, "MisconfigurationException")):
        error = error.__cause__
    if error is None:
        return None
    line, argument = " ".join(str(error).split()), getattr(error, "argument", None)
    if argument is None and not isinstance(error, UserError):  # Lightning's errors often name no remedy
        return f"{in_one_line(line.rstrip('.'), typed, options_in(typed))}; give another value"
    return line if argument is None else line.replace(argument, _as_typed(argument, typed), 1)


def in_one_line(message: str, typed: Sequence[str], known: Iterable[str], key: str | None = None) -> str:
    """Returns a library's message in one line, with the option at fault and, if that is unknown, the nearest ones.

    Args:
        message: the library's own.
        typed: the words of the command line.
        known: all options that exist.
        key: the name of the option at fault, or its last words, if known.
    """
    line, known = " ".join(message.split()), list(known)
    line = line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    options = options_in(typed)
    about = [option for option in options if _last(option) in line]
    about += _named(key, options) if key else []
    about += [option for option, value in reversed(options.items()) if value[:1].isupper()]  # a class may lack it
    if not about and not key:  # of Lightning's messages some name the value alone
        about = [option for option, value in options.items() if len(value) > 2 and value in line.split()]
    if key and not about and key not in line:  # the option is in a file
        line = f"{key}: {line}"
    for option in about[:1]:
        meant = [] if option in known or _last(option) not in line else _nearest(option, known)
        line = line if option in line else f"{option} {options[option]}".strip() + f": {line}"
        line += f"; did you mean {' or '.join(meant)}?" if meant else ""
    return line


def about_value(key: str, kind: Any, typed: Sequence[str]) -> str | None:
    """Returns the line about a typed value that an option does not accept; None if the mistake may be elsewhere.

    Args:
        key: the option's name, or its last words.
        kind: the option's type.
        typed: the words of the command line.
    """
    options = options_in(typed)
    found, wanted = _named(key, options), in_words(kind)
    if not found or wanted is None:
        return None
    value = options[option := found[-1]]
    classes = classes_of(kind)
    if classes and (value in classes or not value.isidentifier()):  # the mistake is in the class
        return None
    meant = _most_like(value, classes)
    return f"{option} {value}: give {wanted}" + (f"; did you mean {' or '.join(meant)}?" if meant else "")


def about_import(error: BaseException | None) -> str | None:
    """Returns the line about a missing package if one led to the error; else None."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__ or error.__context__
    return None if error is None else f"{error}; install it, or add the folder that contains it to PYTHONPATH"


def about_memory(error: BaseException | None) -> str | None:
    """Returns the line about lack of memory if that is the error; else None. Torch's for the CPU is a RuntimeError."""
    if error is None:
        return None
    if isinstance(error, MemoryError) or _is_a(error, "OutOfMemoryError") or "allocate memory" in str(error):
        return "not enough memory; use a smaller network, batch_size or corpus"
    return None


def exit_with(line: str) -> NoReturn:
    """Prints the line as an error and exits with status 2."""
    print(f"error: {printable(line)}", file=sys.stderr)
    raise SystemExit(2)


def _is_a(error: BaseException, name: str) -> bool:
    """Returns whether an error is of a class with this name, so that torch and Lightning need no import."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _named(key: str, options: Iterable[str]) -> list[str]:
    """Returns the options whose name, or last words, are `key`."""
    return [option for option in options if f".{option.lstrip('-')}".endswith(f".{key}")]


def _as_typed(argument: str, typed: Sequence[str]) -> str:
    """Returns the first typed option that contains the argument, cut off after it; `--ARGUMENT` if none does."""
    for option in options_in(typed):
        words = option.lstrip("-").split(".")
        if argument in words:
            return "--" + ".".join(words[: words.index(argument) + 1])
    return f"--{argument}"


def _nearest(option: str, known: Sequence[str]) -> list[str]:
    """Returns the options whose last word is that of `option`, or most like it: `--model.optimizer.lr` for `--lr`.

    Other groups are searched only if the option's own has none.
    """
    word, group = _last(option).replace("-", "_"), option.rpartition(".")[0]
    for candidates in ([one for one in known if one.rpartition(".")[0] == group], known):
        nearest = _most_like(word, [*map(_last, candidates)])
        if homes := [one for one in candidates if _last(one) in nearest][:3]:
            return homes
    return []


def _most_like(word: str, known: Sequence[str]) -> list[str]:
    """Returns the known word most like this one, or up to three that tie; none if all are less alike than ALIKE."""
    likeness = {one: SequenceMatcher(None, word.lower(), one.lower()).ratio() for one in known}
    best = max(likeness.values(), default=0.0)
    return [one for one, alike in likeness.items() if alike == best >= ALIKE][:3]


def _last(option: str) -> str:
    return option.rpartition(".")[2].lstrip("-")
