"""The exceptions of this package."""

from lightning_fabric.utilities.exceptions import MisconfigurationException


class CannotFuseError(Exception):
    """Why the fused engine cannot train this, in words for the user."""


class EngineUnavailableError(MisconfigurationException, ValueError):
    """The engine that was asked for cannot train this; the message says why, and which engine can."""

    argument = "engine"  # which is at fault


class EngineMismatchError(RuntimeError):
    """Compiled updates no longer agree with the module's own step; the message names the updates in doubt."""
