"""Describes in words the values that an option of a type takes."""

import inspect
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, Union, get_args, get_origin

WORDS = {int: "a whole number", float: "a number", bool: "true", str: "a string", type(None): "null"}
NOT_TYPED = {"Tensor"}  # classes that a command line cannot give


def in_words(kind: Any) -> str | None:
    """Returns how to write a value of a type on the command line, such as `a number or null`; None if unknown."""
    found = [*dict.fromkeys(_alternatives(kind))]
    if WORDS[float] in found and WORDS[int] in found:
        found.remove(WORDS[int])
    if not found or None in found:
        return None
    *others, last = [str(words) for words in found]
    return f"{', '.join(others)} or {last}" if others else last


def classes_of(kind: Any) -> list[str]:
    """Returns the names of the loaded classes that an option of this type takes."""
    return [*dict.fromkeys(name for base in _bases(kind) for name in _names(base))]


def is_whole(kind: Any) -> bool:
    """Returns whether an option of this type takes a whole number."""
    return kind is int or any(map(is_whole, get_args(kind)))


def _alternatives(kind: Any) -> Iterator[str | None]:
    origin, args = get_origin(kind), get_args(kind)
    if kind in WORDS:
        yield WORDS[kind]
        yield from ["false"] if kind is bool else []
    elif origin is Literal:
        yield from map(str, args)
    elif origin in (Union, types.UnionType):
        for one in args:
            if getattr(one, "__name__", None) not in NOT_TYPED:
                yield from _alternatives(one)
    elif origin is tuple and Ellipsis not in args:
        each = [in_words(one) for one in args]
        yield None if None in each else f"[{', '.join(map(str, each))}]"
    elif bases := [*_bases(kind)]:
        yield f"a subclass of {bases[0].__name__}"
    else:
        yield None


def _bases(kind: Any) -> Iterator[type]:
    """Yields the base classes whose subclasses, or factories of them, an option takes."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Callable and args:
        yield from _bases(args[-1])
    elif origin in (Union, types.UnionType, list, Iterable):
        for one in args:
            yield from _bases(one)
    elif inspect.isclass(kind) and kind not in WORDS and kind.__module__ != "builtins":
        yield kind


def _names(base: type) -> Iterator[str]:
    if not inspect.isabstract(base):
        yield base.__name__
    for derived in list[type](base.__subclasses__()):
        yield from _names(derived)
