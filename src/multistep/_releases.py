"""Checks that the installed torch and Lightning are releases whose internals this package knows.

Chunks advance Lightning's own counters, and the fused engine calls internals of torch's compiler. Both may change in
any release. With an unknown release, ordinary Lightning trains.
"""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

KNOWN = {"torch": ("2.13", "2.14", "2.15"), "pytorch-lightning": ("2.6",)}


@cache
def unknown_release() -> str | None:
    """Returns a message that names the package whose release is unknown, or None if both are known."""
    for name, known in KNOWN.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "without a version"
        if ".".join(installed.split(".")[:2]) not in known:
            return f"{name} {installed} is not supported (supported: {', '.join(known)})"
    return None
