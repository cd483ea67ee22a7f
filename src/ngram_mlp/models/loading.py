"""Builds models from checkpoints, which are data: nothing that a checkpoint names is imported or run."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any, TypeVar

from torch import nn

from runlab import Checkpoint, UserError, about_import, shortened

M = TypeVar("M", bound=nn.Module)


def load_model(checkpoint: Checkpoint, model_class: type[M], strict: bool = True, **arguments: Any) -> M:
    """Returns the model of a checkpoint, in evaluation mode; raises a UserError if its class or weights do not fit.

    `model_class` may be a base of the class that the checkpoint names, if this package has the latter. `arguments`
    replace constructor arguments in the checkpoint. All weights are required only if `strict`.
    """
    name = checkpoint.model
    model_class = next((kind for kind in _of_this_package(model_class) if kind.__name__ == name), model_class)
    if model_class.__name__ != name:
        remedy = "name its class as the model (package.module.Class), or call load_from_checkpoint on it"
        raise checkpoint.error(f"holds a model {shortened(name)}; {remedy}")
    try:
        model = model_class(**checkpoint.hyperparameters | arguments)
        load_weights(model, checkpoint.weights, strict)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, AttributeError) as error:
        reason = shortened(" ".join(str(error).split()), 300)
        raise checkpoint.error(f"does not fit {name}: {reason}") from error
    return model.eval()


def variant(name: str, base: type[M]) -> type[M]:
    """Returns a class by name: `base`, one of this package, or `package.module.Class`; raises a UserError if absent."""
    known = {kind.__name__: kind for kind in (base, *_of_this_package(base))}
    module, _, own = name.rpartition(".")
    if not module and name in known:
        return known[name]
    try:
        found = getattr(import_module(module), own, None) if module else None
    except ImportError as error:
        raise UserError(about_import(error) or str(error), model=name) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"is not a variant of {base.__name__}; give package.module.Class", model=name)
    return found


def _of_this_package(base: type[M]) -> Iterator[type[M]]:
    """Yields the subclasses that this package defines; a checkpoint may name no others."""
    for kind in base.__subclasses__():
        if kind.__module__.startswith(f"{__package__.split('.')[0]}."):
            yield kind
        yield from _of_this_package(kind)


def load_weights(model: nn.Module, weights: dict[str, Any], strict: bool = True) -> None:
    """Loads the weights of a checkpoint into a model; raises one of several built-in errors if they do not fit."""
    for key, own in model.state_dict().items():
        if key in weights and weights[key].is_floating_point() != own.is_floating_point():
            raise TypeError(f"{key} is of {weights[key].dtype}, not {own.dtype}")
    model.load_state_dict(weights, strict)
