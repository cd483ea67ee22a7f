"""Many runs compared, and the best of many found: a pool of processes that trains them, studies, searches, reports.

Machinery: a study or a search of your own needs no code, only configurations and options of `scripts/compare.py` and
`scripts/search.py`. In Python, `ngram_mlp.studies.search` does what the latter does.
"""

from typing import Any

__all__ = ["search"]


def __getattr__(name: str) -> Any:
    if name != "search":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ngram_mlp.studies.searching import search  # here, as Optuna is an extra

    return search
