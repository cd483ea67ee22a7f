"""The exceptions of this package."""


class CannotFuseError(Exception):
    """Why the fused engine cannot train this, in words for the user."""


class EngineUnavailableError(ValueError):
    """The engine that was asked for cannot train this; the message says why, and which engine can."""


class EngineMismatchError(RuntimeError):
    """Compiled updates no longer agree with the module's own step; the message names the updates in doubt."""
