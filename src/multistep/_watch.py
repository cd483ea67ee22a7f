"""Watches what an update depends on besides its input tensors, and describes it as comparable values.

A module's `training_step` reads attributes of its modules and their classes, global names, and closures. A callback may
change any of these, and they may differ in another process.
"""

import operator
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import nn
from torchmetrics import Metric, MetricCollection

from multistep._describe import OF_EVERY_MODULE, Describer, Unhashable
from multistep._errors import CannotFuseError
from multistep._origins import PLAIN, is_foreign, module_of, name_of
from multistep._record import Recorder
from multistep._undo import Place

OF_LIGHTNING = set(LightningModule().__dict__) - {"training", "_example_input_array"}
OF_LIGHTNING |= {"_hparams_initial", "_hparams_name"}
# Hooks that torch itself registers compute weights. Any other hook must be called at every update.
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
DERIVED = {"_flat_weights", "_flat_weight_refs"}  # recurrent layers derive these from their parameters
FROZEN = (*PLAIN, type, types.CodeType, torch.dtype, torch.device)  # values of these types do not change in place


class _AnyMetric(Metric):
    def update(self) -> None:
        """Does nothing."""

    def compute(self) -> None:
        """Does nothing."""


OF_EVERY_METRIC = set(vars(_AnyMetric())) | set(vars(MetricCollection([])))


class Watch:
    """Records what one update reads and does, and describes its present state on request.

    Args:
        perform: performs the update on copies.
        module: the copy of the module.
        copies: the identities of all copied objects, whose changes do not matter.
        shared: the objects that the copies share with the originals.

    Raises:
        CannotFuseError: the update does more than tensor operations.
    """

    def __init__(self, perform: Callable[[], None], module: nn.Module, copies: set[int], shared: Iterable[Any]) -> None:
        for path, child in module.named_modules():
            _refuse_hooks(child, path)
        recorder = Recorder(module, copies, shared=shared)
        recorder.run(perform)
        self._shared = recorder.shared
        self._recorder, self._places = recorder, recorder.places
        self._seen: list[Any] = []  # by the last `_glance`
        self._changeable: list[Any] = []
        self._described: list[Any] = []
        self._names: tuple[dict[int, str], dict[int, str]] = {}, {}

    def has(self, key: str) -> bool:
        """Returns whether the code that ran may read an attribute of this name."""
        return self._recorder.has(key)

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Restores what the code refers to outside the module, if the block changes it."""
        back = [place.keeping() for place in (*self._places, *self._shared)]
        try:
            yield
        finally:
            for put_back in back:
                put_back()

    def places(self, module: nn.Module) -> list[Place]:
        """Returns the places of everything that an update depends on, including attributes of submodules."""
        own = [
            Place(label, vars(child), key)
            for path, child in module.named_modules()
            for label, key in self._attributes(path, child)
        ]
        return [*own, *self._places]

    def describe(self, module: nn.Module) -> dict[str, Any]:
        """Returns everything that a module's compiled code depends on besides its input tensors, by name.

        Raises a CannotFuseError if a hook is registered, or if something cannot be watched.
        """
        describer = Describer(*_names_of(module))
        described: dict[str, Any] = {}
        for path, child in module.named_modules():
            _refuse_hooks(child, path)
            described[f"class of {path or 'self'}"] = name_of(type(child))
            described |= {label: describer(vars(child)[key]) for label, key in self._attributes(path, child)}
        for name, parameter in module.named_parameters():
            if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
                raise CannotFuseError(f"a hook is registered on the parameter {name}")
            described[f"parameter {name}"] = [parameter.requires_grad, str(parameter.dtype), list(parameter.shape)]
        described |= {f"buffer {name}": [str(b.dtype), list(b.shape)] for name, b in module.named_buffers()}
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if key := next((key for key in vars(tensor) if self.has(key)), None):
                raise CannotFuseError(f"training_step may read {key} of the tensor {name}")
        described |= {place.label: describer(place.get()) for place in self._places}
        for label, value in described.items():
            if isinstance(value, Unhashable) or (
                isinstance(value, list) and any(isinstance(v, Unhashable) for v in value)
            ):
                raise CannotFuseError(f"{label} cannot be watched")
        return described

    def _attributes(self, path: str, child: nn.Module) -> Iterator[tuple[str, str]]:
        """Yields the attributes of a submodule that the code may read: the path from the module, and the name."""
        skipped = OF_LIGHTNING if isinstance(child, LightningModule) else OF_EVERY_MODULE
        known = not is_foreign(type(child).__module__)
        if isinstance(child, (Metric, MetricCollection)):  # its states change outside the compiled code
            skipped, known = OF_EVERY_METRIC | {*getattr(child, "_defaults", ())}, False
        for key in vars(child):
            if key not in skipped | DERIVED and (known or key == "training" or self.has(key)):
                yield f"self.{path}.{key}" if path else f"self.{key}", key

    def has_changed(self, module: nn.Module, described: dict[str, Any]) -> bool:
        """Returns whether a module's description has changed, in a tenth of the time of `describe` if it has not."""
        seen = self._glance(module)
        same = len(seen) == len(self._seen) and all(map(operator.is_, seen, self._seen))
        if same and self._contents() == self._described:
            return False
        if self.describe(module) != described:
            return True
        self._seen, self._names = seen, _names_of(module)
        watched = [place.get() for place in self.places(module)]
        self._changeable = [v for v in watched if not isinstance(v, FROZEN) and id(v) not in self._names[1]]
        self._described = self._contents()
        return False

    def _contents(self) -> list[Any]:
        describer = Describer(*self._names)
        return [describer(value) for value in self._changeable]

    def _glance(self, module: nn.Module) -> list[Any]:
        """Returns all objects that a description reads, for comparison by identity."""
        seen: list[Any] = []
        for place in self._places:
            seen += place.get() if place.encloses else [place.get()]
        children = [module]
        for child in children:
            own = vars(child)
            buffers = own["_buffers"].values()
            seen += [type(child), *own, *own.values(), *own["_buffers"], *map(type, buffers)]
            seen += [key for buffer in buffers if buffer is not None for key in vars(buffer)]
            seen += [len(own[hooks]) for hooks in HOOKS]
            for parameter in own["_parameters"].values():
                if parameter is not None:
                    hooks = parameter._backward_hooks, getattr(parameter, "_post_accumulate_grad_hooks", None)
                    seen += [parameter, parameter.requires_grad, *hooks, *vars(parameter)]
            children += [inner for inner in own["_modules"].values() if inner is not None]
        seen += [len(getattr(torch.nn.modules.module, f"_global{hooks}")) for hooks in HOOKS]
        return seen


def _names_of(module: nn.Module) -> tuple[dict[int, str], dict[int, str]]:
    """Returns the names of a module's tensors, and the paths of its submodules, by identity."""
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {id(tensor): name for name, tensor in tensors}, {id(child): path for path, child in module.named_modules()}


def _refuse_hooks(module: nn.Module, name: str) -> None:
    for hooks in HOOKS:
        if getattr(torch.nn.modules.module, f"_global{hooks}", None):
            raise CannotFuseError("a hook is registered on all modules")
        for hook in module.__dict__[hooks].values():
            if not module_of(hook).startswith("torch."):
                raise CannotFuseError(f"a hook is registered on {name or 'the module'}")
