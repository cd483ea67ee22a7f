"""A module with state, which steps import when they run."""

STATS = {"calls": 0}
