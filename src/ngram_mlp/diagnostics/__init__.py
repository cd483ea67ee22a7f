"""Inspects networks: snapshots of an update, statistics, batch norm's statistics, verdicts, figures.

For research: a new statistic is a function of tensors in `statistics.py`, a new figure a function in `figures.py`.
"""
