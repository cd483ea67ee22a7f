"""A configuration's values by option, as they are typed."""

from collections.abc import Iterator
from typing import Any


def flattened(nested: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of a configuration with their options: without `class_path` and `init_args`."""
    for key, value in nested.items():
        name = prefix.removesuffix(".") if key == "class_path" else prefix if key == "init_args" else f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{name.removesuffix('.')}.")
        else:
            yield name, value
