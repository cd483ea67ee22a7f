"""Which releases of torch and Lightning are known from within.

Chunks advance Lightning's own counters, and the fused engine calls the inner parts of torch's compiler. Both may
change in any release. With a release that is not known here, ordinary Lightning trains.
"""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

KNOWN = {"torch": ("2.13", "2.14", "2.15"), "pytorch-lightning": ("2.6",)}


@cache
def unknown_release() -> str | None:
    """Returns which of the two is not known here, in words; None if both are known."""
    for name, known in KNOWN.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "without a version"
        if ".".join(installed.split(".")[:2]) not in known:
            return f"{name} {installed} is not known here ({', '.join(known)} {'are' if len(known) > 1 else 'is'})"
    return None
