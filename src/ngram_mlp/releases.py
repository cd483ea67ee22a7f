"""Which releases of torch and Lightning are known from within.

Chunks of updates advance Lightning's own counters, and the fused engine calls the inner parts of torch's compiler. Both
may change in any release. With one that is not known here, models are trained by ordinary Lightning, through public
interfaces alone. `pyproject.toml` names the same releases as the extra `known`.
"""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

KNOWN = {"torch": ("2.13", "2.14", "2.15"), "pytorch-lightning": ("2.6",)}


@cache
def unknown_release() -> str | None:
    """The first of the two that is not known, in words; None where both are."""
    for name, known in KNOWN.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "without a version"
        if ".".join(installed.split(".")[:2]) not in known:
            return f"{name} {installed} is not known here ({', '.join(known)} {'are' if len(known) > 1 else 'is'})"
    return None
