"""The one exception that stands for a user's mistake."""

from collections.abc import Mapping

__all__ = ["UserError", "require_at_least"]


class UserError(ValueError):
    """A mistake in what the user asked for; its message names the option, the value and a remedy in one line.

    The commands print the message and exit with status 2. Every other exception is a bug and keeps its traceback.
    """


def require_at_least(least: int, values: Mapping[str, int]) -> None:
    """Raises a UserError for the first of the values, keyed by option, that is below `least`."""
    for option, value in values.items():
        if value < least:
            raise UserError(f"{option} {value}: give a whole number of at least {least}")
