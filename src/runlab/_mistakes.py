"""A user's mistakes in one line: options named as they were typed, and the one that was meant."""

import sys
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any, NoReturn

from runlab._errors import UserError, printable
from runlab._options import options_in
from runlab._wanted import classes_of, in_words

LONGEST = 400  # characters of a line by a library
ALIKE = 0.65  # from which two words may be one misspelt


def mistake_in(error: BaseException | None, typed: Sequence[str]) -> str | None:
    """Returns the line about a user's mistake that led to an error, which a library may have wrapped; None for a bug.

    Args:
        error: what was raised.
        typed: the words of the command line, one of which may be the option that the mistake is in.
    """
    while error is not None and not (isinstance(error, UserError) or _is_a(error, "MisconfigurationException")):
        error = error.__cause__
    if error is None:
        return None
    line, argument = " ".join(str(error).split()), getattr(error, "argument", None)
    if argument is None and not isinstance(error, UserError):  # Lightning's, which often names no remedy
        return f"{in_one_line(line.rstrip('.'), typed, options_in(typed))}; give another value"
    return line if argument is None else line.replace(argument, _as_typed(argument, typed), 1)


def in_one_line(message: str, typed: Sequence[str], known: Iterable[str], key: str | None = None) -> str:
    """Returns a parser's message, with the option that it is about, and the nearest one where that is unknown.

    Args:
        message: as the library has it.
        typed: the words of the command line.
        known: the options that there are.
        key: the name of the option, or its last words, where it is known.
    """
    line, known = " ".join(message.split()), list(known)
    line = line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    options = options_in(typed)
    about = [option for option in options if _last(option) in line]
    about += _named(key, options) if key else []
    about += [option for option, value in reversed(options.items()) if value[:1].isupper()]  # what a class lacks
    if key and not about and key not in line:  # it stands in a file
        line = f"{key}: {line}"
    for option in about[:1]:
        meant = [] if option in known or _last(option) not in line else _nearest(option, known)
        line = line if option in line else f"{option} {options[option]}".strip() + f": {line}"
        line += f"; did you mean {' or '.join(meant)}?" if meant else ""
    return line


def about_value(key: str, kind: Any, typed: Sequence[str]) -> str | None:
    """Returns the line about a typed value that an option does not take; None where the mistake may be another.

    Args:
        key: the option's name, or its last words.
        kind: the type that it takes.
        typed: the words of the command line.
    """
    options = options_in(typed)
    found, wanted = _named(key, options), in_words(kind)
    if not found or wanted is None:
        return None
    value = options[option := found[-1]]
    classes = classes_of(kind)
    if classes and (value in classes or not value.isidentifier()):  # what is wrong is in the class
        return None
    meant = _most_like(value, classes)
    return f"{option} {value}: give {wanted}" + (f"; did you mean {' or '.join(meant)}?" if meant else "")


def about_import(error: BaseException | None) -> str | None:
    """Returns the line about a package of the user's that is not found, where an error says so."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__ or error.__context__
    return None if error is None else f"{error}; install it, or name its folder in PYTHONPATH"


def about_memory(error: BaseException | None) -> str | None:
    """Returns the line about too little memory, where an error says so; torch's for the CPU is a RuntimeError."""
    if error is None:
        return None
    if isinstance(error, MemoryError) or _is_a(error, "OutOfMemoryError") or "allocate memory" in str(error):
        return "the memory does not suffice; take a smaller network, batch_size or corpus"
    return None


def exit_with(line: str) -> NoReturn:
    """Prints the line as an error and exits with status 2."""
    print(f"error: {printable(line)}", file=sys.stderr)
    raise SystemExit(2)


def _is_a(error: BaseException, name: str) -> bool:
    """Whether an error is of a class of torch or Lightning, neither of which is imported for that."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _named(key: str, options: Iterable[str]) -> list[str]:
    """The options of that name, or whose last words are that."""
    return [option for option in options if f".{option.lstrip('-')}".endswith(f".{key}")]


def _as_typed(argument: str, typed: Sequence[str]) -> str:
    """The option of that argument; of one whose parts were typed, as much of them as names it."""
    for option in options_in(typed):
        words = option.lstrip("-").split(".")
        if argument in words:
            return "--" + ".".join(words[: words.index(argument) + 1])
    return f"--{argument}"


def _nearest(option: str, known: Sequence[str]) -> list[str]:
    """The options whose last word is that of this one, as `--model.optimizer.lr` for `--lr`, or is most like it.

    Those of the same group come first.
    """
    word, group = _last(option).replace("-", "_"), option.rpartition(".")[0]
    for candidates in ([one for one in known if one.rpartition(".")[0] == group], known):
        nearest = _most_like(word, [*map(_last, candidates)])
        if homes := [one for one in candidates if _last(one) in nearest][:3]:
            return homes
    return []


def _most_like(word: str, known: Sequence[str]) -> list[str]:
    """The one of the known words that is most like this one, or several that are equally so; none if none is."""
    likeness = {one: SequenceMatcher(None, word.lower(), one.lower()).ratio() for one in known}
    best = max(likeness.values(), default=0.0)
    return [one for one, alike in likeness.items() if alike == best >= ALIKE][:3]


def _last(option: str) -> str:
    return option.rpartition(".")[2].lstrip("-")
