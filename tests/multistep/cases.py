"""All odd modules and settings: each of these files adds its own."""

from tests.multistep import (  # noqa: F401
    around,
    deceiving,
    enclosed,
    later,
    rare,
    reached,
    reaching,
    renewed,
    shared,
    user_state,
    wrapped,
)
from tests.multistep.odd import ODD
from tests.multistep.settings import SETTINGS

__all__ = ["ODD", "SETTINGS"]
