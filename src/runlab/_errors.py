"""The exception for a user's mistakes, and text from strangers made safe to print in it."""

import errno
import unicodedata

# Controls, format characters (bidirectional marks), surrogates, private and unassigned codes, line separators.
UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # of the device, of the user's quota, of one file
LARGEST_NUMBER = 2**62
JOINERS = "\u200c\u200d"  # format characters without which Persian and Indian words are misspelt


class UserError(ValueError):
    """A mistake in what the user asked for: the argument at fault if there is one, its value unless None, and a remedy.

    The commands replace the argument's name by the option as it is typed, print the line and exit with status 2.

    >>> str(UserError("give at least 1", n_hidden=-3))
    'n_hidden -3: give at least 1'
    """

    def __init__(self, message: str, **argument: object) -> None:
        self.argument = next(iter(argument), None)
        named = [f"{name}: " if value is None else f"{name} {value}: " for name, value in argument.items()]
        super().__init__("".join(named) + message)

    def of_group(self, group: str) -> "UserError":
        """Returns the same, about the argument as an option of this group."""
        option = f"{group}.{self.argument}"
        found = UserError(str(self).replace(str(self.argument), option, 1))
        found.argument = option
        return found


class Diverged(UserError):
    """The training loss is not finite."""


def full_disk(error: BaseException | None) -> OSError | None:
    """What a full disk raised and led to an error, which loggers wrap and raise once more; None for other errors."""
    while error is not None and not (isinstance(error, OSError) and error.errno in DISK_IS_FULL):
        error = error.__cause__ or error.__context__
    return error


def require_at_least(least: int, **arguments: int) -> None:
    """Raises a UserError for the first argument below `least`, or larger than torch can count."""
    for name, value in arguments.items():
        if not isinstance(value, int) or value < least:
            shown = value if isinstance(value, (int, float)) else None  # anything may come from a checkpoint
            raise UserError(f"give a whole number of at least {least}", **{name: shown})
        if value > LARGEST_NUMBER:
            raise UserError(f"give a whole number of at most {LARGEST_NUMBER:,}", **{name: value})


def printable(text: str) -> str:
    """The text with every character that is neither visible nor a space escaped as Python would escape it."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in UNPRINTABLE and c not in JOINERS else c for c in text)


def shortened(value: object, limit: int = 80) -> str:
    """The value's repr, cut in the middle where it is longer than `limit` characters."""
    # A string is cut before its repr is taken, as it may be a file's worth of text.
    text = repr(value if not isinstance(value, str) or len(value) <= limit else value[:limit] + value[-limit:])
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
