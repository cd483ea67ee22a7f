"""The one exception that stands for a user's mistake."""


class UserError(ValueError):
    """A mistake in what the user asked for: the argument, its value and a remedy, in one line.

    The commands replace the argument's name by the option as it is typed, print the line and exit with status 2. Every
    other exception is a bug and keeps its traceback.

    Args:
        message: what is wrong, and what would do.
        argument: the argument at fault as `name=value`, if there is one; the value None is not shown.

    >>> str(UserError("give at least 1", n_hidden=-3))
    'n_hidden -3: give at least 1'
    """

    def __init__(self, message: str, **argument: object) -> None:
        self.argument = next(iter(argument), None)
        super().__init__("".join(_named(*pair) for pair in argument.items()) + message)


def _named(name: str, value: object) -> str:
    return f"{name}: " if value is None else f"{name} {value}: "


def require_at_least(least: int, **arguments: int) -> None:
    """Raises a UserError for the first of the arguments that is below `least`."""
    for name, value in arguments.items():
        if value < least:
            raise UserError(f"give a whole number of at least {least}", **{name: value})
