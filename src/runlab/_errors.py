"""Defines the exception for a user's mistakes, and makes untrusted text safe to print."""

import errno
import unicodedata

# Control and format characters (bidirectional marks), surrogates, private and unassigned codes, line separators.
UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the device, the user's quota, one file
LARGEST_NUMBER = 2**62
JOINERS = "\u200c\u200d"  # format characters that Persian and Indian spelling needs


class UserError(ValueError):
    """A user's mistake: the argument at fault, if there is one, its value unless None, and a remedy.

    Commands replace the argument's name by the option as typed, print the line and exit with status 2.

    >>> str(UserError("give at least 1", n_hidden=-3))
    'n_hidden -3: give at least 1'
    """

    def __init__(self, message: str, **argument: object) -> None:
        self.argument = next(iter(argument), None)
        named = [f"{name}: " if value is None else f"{name} {value}: " for name, value in argument.items()]
        super().__init__("".join(named) + message)

    def of_group(self, group: str) -> "UserError":
        """Returns the same error, with the argument named as an option of this group."""
        option = f"{group}.{self.argument}"
        found = UserError(str(self).replace(str(self.argument), option, 1))
        found.argument = option
        return found


class Diverged(UserError):
    """The training loss is not finite."""


def full_disk(error: BaseException | None) -> OSError | None:
    """Returns the OSError of a full disk behind an error, which loggers may have wrapped; None if there is none."""
    while error is not None and not (isinstance(error, OSError) and error.errno in DISK_IS_FULL):
        error = error.__cause__ or error.__context__
    return error


def require_at_least(least: int, **arguments: int) -> None:
    """Raises a UserError for the first argument that is not a whole number from `least` to LARGEST_NUMBER."""
    for name, value in arguments.items():
        if not isinstance(value, int) or value < least:
            shown = value if isinstance(value, (int, float)) else None  # a checkpoint may hold anything
            raise UserError(f"give a whole number of at least {least}", **{name: shown})
        if value > LARGEST_NUMBER:
            raise UserError(f"give a whole number of at most {LARGEST_NUMBER:,}", **{name: value})


def printable(text: str) -> str:
    """Returns the text with every character that is neither visible nor a space escaped as in Python."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in UNPRINTABLE and c not in JOINERS else c for c in text)


def shortened(value: object, limit: int = 80) -> str:
    """Returns the value's repr, cut in the middle if longer than `limit` characters."""
    # A string may hold a whole file, so it is cut before its repr is taken.
    text = repr(value if not isinstance(value, str) or len(value) <= limit else value[:limit] + value[-limit:])
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
