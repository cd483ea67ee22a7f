"""Names the layers of a network for display."""

from collections import Counter
from collections.abc import Iterator

from torch import nn


def named_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields all modules with their names; numbered ones are named by kind and number, such as `linear2`."""
    names = {"": ""}
    for name, module in network.named_modules():
        for (child, _), word in zip(module.named_children(), _words_of(module), strict=True):
            names[f"{name}.{child}".lstrip(".")] = f"{names[name]}.{word}".lstrip(".")
        yield names[name], module


def named_weights(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields all parameters with their names, with module names as in `named_layers`."""
    seen: set[nn.Parameter] = set()
    for name, module in named_layers(network):
        for own, parameter in module.named_parameters(recurse=False):
            if parameter not in seen:  # a shared one is yielded once, as in torch
                seen.add(parameter)
                yield f"{name}.{own}".lstrip("."), parameter


def _words_of(parent: nn.Module) -> list[str]:
    """Returns the names of a module's children within it."""
    children = [*parent.named_children()]
    kinds = Counter(type(child).__name__.lower() for name, child in children if name.isdecimal())
    taken, numbers, words = {name for name, _ in children}, Counter[str](), []
    for name, child in children:
        kind = type(child).__name__.lower()
        if name.isdecimal():
            numbers[kind] += 1
            word = f"{kind}{numbers[kind]}" if kinds[kind] > 1 else kind
            name = name if word in taken else word
        words.append(name)
    return words
