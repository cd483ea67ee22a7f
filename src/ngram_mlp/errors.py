"""The one exception that stands for a user's mistake."""

__all__ = ["UserError"]


class UserError(ValueError):
    """A mistake in what the user asked for; its message names the option, the value and a remedy in one line.

    The commands print the message and exit with status 2. Every other exception is a bug and keeps its traceback.
    """
