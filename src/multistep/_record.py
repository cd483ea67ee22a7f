"""Performs an update under watch: records every user function that it runs before the function begins.

Other code, or the function itself, may change what it names, receives or encloses. Other calls, such as those of the
clock, a file or the trainer, are refused: compiled code would make them once or never.
"""

import gc
import operator
import os
import sys
import types
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric, MetricCollection

from multistep._describe import FUNCTIONS, OF_EVERY_MODULE, enclosed
from multistep._errors import CannotFuseError
from multistep._guards import RefusingValue, active_modes
from multistep._origins import (
    FEW,
    PLAIN,
    attributes_of,
    can_change,
    contents_of,
    is_foreign,
    is_of_python,
    is_own,
    is_own_module,
    is_own_object,
    loaded,
    name_of,
    names_in,
)
from multistep._refusals import (
    ENVIRONMENT,
    OF_THE_TRAINER,
    REFUSED,
    SET_STATE,
    RefusedError,
    imports_in,
    is_of_ones_own,
    refused_in_c,
    refused_in_code,
)
from multistep._undo import Place

# Code with one of these may read an attribute that it does not name.
BY_ANY_NAME = {"getattr", "setattr", "vars", "__dict__", "locals", "globals", "eval", "exec", "attrgetter"}
NOBODY = 2  # references to an object that only a place holds, while they are counted
# Attributes of classes that a step does not use: it does not make its modules.
MAKING = ("__init__", "__new__", "__init_subclass__", "__class_getitem__", "_abc_impl")
_Key = tuple[int, str | None]


class Recorder:
    """Performs an update on copies, and records the names in the code that runs and the places that it can reach.

    Args:
        module: the copy of the module.
        copies: the identities of all copied objects, whose changes do not matter.
        who: what performs the update, for messages.
        watched: a module that is watched separately, if the update does not run on copies. Anything else that it may
            change is then refused before it runs, if it cannot be restored.
        shared: the objects that the copies share with the originals.
    """

    def __init__(
        self,
        module: nn.Module,
        copies: set[int],
        who: str = "training_step",
        watched: nn.Module | None = None,
        shared: Iterable[Any] = (),
    ) -> None:
        self._copies, self._who, self._on_copies, self._common = copies, who, watched is None, [*shared]
        self._modules = {} if watched is None else {id(child): path for path, child in watched.named_modules()}
        self._keys = {"training_step", "forward"}
        self._by_any_name = False
        self.codes: set[types.CodeType] = set()  # of functions that have run, of the user and of other packages
        self._classes: set[type] = set()
        self._places: dict[_Key, Place] = {}
        self._back: dict[_Key, Callable[[], None]] = {}
        self._held: dict[_Key, int] = {}  # references to an object held for restoring it
        self._problems: set[_Key] = set()
        self._enclosed: dict[types.CodeType, set[tuple[int, ...]]] = {}
        self._refusal: str | None = None
        self._looked: dict[int, Any] = {}  # values searched for classes; held, so that no other has the same identity
        with suppress(RefusedError):
            whose = "shared by the module and its copies" if watched is None else f"that {who} holds"
            for value in self._common:
                held = vars(value) if isinstance(value, types.FunctionType) else value
                self._meet(Place(f"the {type(value).__name__} {whose}", held), needed=True)
            self._shared = set(self._places)
            for child in module.modules():
                if not isinstance(child, (Metric, MetricCollection)):
                    self._meet_class(type(child))
                    inside = [value for key, value in vars(child).items() if key not in OF_EVERY_MODULE]
                    self._meet_classes_in(inside)

    def has(self, key: str) -> bool:
        """Returns whether the code that ran may read an attribute of this name."""
        return key in self._keys or self._by_any_name or key.removeprefix("_") in self._keys

    @property
    def places(self) -> list[Place]:
        """The places where the code finds values outside the copies."""
        return [place for key, place in self._places.items() if key not in self._shared]

    @property
    def shared(self) -> list[Place]:
        """The places that the copies share with the originals; attributes of the module lead to them, too."""
        return [place for key, place in self._places.items() if key in self._shared]

    def run(self, perform: Callable[[], None]) -> None:
        """Performs an update, and undoes its changes outside the copies.

        Raises a CannotFuseError if there were any, or if the update made a refused call.
        """
        if self._refusal is not None:
            raise CannotFuseError(self._refusal)
        if modes := active_modes():
            raise CannotFuseError(f"{modes[-1]} intercepts every operation")
        if sys.getprofile() is not None:
            raise CannotFuseError("a Python profiler is active")
        collects = gc.isenabled()
        gc.disable()  # other code may have registered callbacks with it
        try:
            sys.setprofile(self._event)
            try:
                perform()
            finally:
                sys.setprofile(None)
                (gc.enable if collects else gc.disable)()
        except RefusedError:
            pass
        finally:
            self._drop_what_is_gone()
            after = {key: self._places[key].described() for key in self._back}
            for put_back in reversed(self._back.values()):  # a place that was met late may have changed before
                put_back()
            undone = (key for key, value in after.items() if value != self._places[key].described())
            changed = next((self._places[key].label for key in undone), None)
        if self._refusal is not None or changed is not None:
            raise CannotFuseError(self._refusal or f"{self._who} changes {changed}")
        with suppress(RefusedError):
            self._settle()
        if self._refusal is not None:
            raise CannotFuseError(self._refusal)

    def _drop_what_is_gone(self) -> None:
        """Drops objects that the update created and that nothing else holds, and then the objects that those held."""
        count = 0
        self._looked.clear()
        while count != (count := len(self._places)):
            for key, place in list(self._places.items()):
                if place.key is None and sys.getrefcount(place.space) - self._held[key] <= NOBODY:
                    del self._places[key], place
                    self._back.pop(key, None)

    def _event(self, frame: types.FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            if (what := refused_in_c(argument)) is not None and is_of_ones_own(frame):
                self._refuse(what)
        elif event == "call":
            name = str(frame.f_globals.get("__name__"))
            what = REFUSED.get(frame.f_code)
            if what is None and name.startswith(OF_THE_TRAINER):
                what = f"{self._who} uses the trainer's {frame.f_code.co_name}"
            if what is not None and is_of_ones_own(frame.f_back):
                self._refuse(what)
            if frame.f_code is SET_STATE and not torch.equal(frame.f_locals["new_state"], torch.get_rng_state()):
                self._refuse(f"{self._who} resets torch's random state, as fork_rng and checkpoint do")
            if frame.f_code is ENVIRONMENT and is_of_ones_own(frame):
                self._meet(Place("os.environ", vars(os.environ), "_data"))
            if is_foreign(name) and frame.f_code.co_name != "<module>":
                self._enter(frame, name)
            elif name.startswith("torch.nn.modules.") and name != nn.Module.__module__:
                self._keys.update(names_in(frame.f_code))  # a user's module may derive from its class

    def _refuse(self, what: str) -> None:
        self._refusal = self._refusal or what.replace("training_step", self._who)
        raise RefusedError(what)

    def _enter(self, frame: types.FrameType, module: str) -> None:
        """Records a function that is about to run, and everything that it can read or change."""
        code, own = frame.f_code, is_own_module(module)
        if code not in self.codes:
            self.codes.add(code)
            self._keys |= (names := set(names_in(code)))
            self._by_any_name = self._by_any_name or not BY_ANY_NAME.isdisjoint(names)
            self._meet_names(names, frame.f_globals, module)
            if (what := refused_in_code(code, frame.f_globals)) is not None:
                self._refuse(what)
            for imported in imports_in(code):
                found = loaded(imported, str(frame.f_globals.get("__package__")))
                if own and self._on_copies and not found:
                    self._refuse(f"{code.co_name} imports {imported}, which is not loaded yet")
                for each in found:
                    self._meet_names(names, vars(each), each.__name__)
        if own:
            values = frame.f_locals
            if code.co_freevars:
                ids = tuple(id(values[name]) for name in code.co_freevars if name in values)
                self._enclosed.setdefault(code, set()).add(ids)
            for value in values.values():
                self._refuse_data(value)
                changes = id(value) not in self._copies and can_change(value)
                if changes:
                    self._meet(Place(f"a {type(value).__name__} passed to {code.co_name}", value))
                if changes or issubclass(type(value), type):
                    self._meet_classes_in([value])

    def _refuse_data(self, value: Any) -> None:
        if self._on_copies and type(value) is not RefusingValue and isinstance(value, (Dataset, DataLoader)):
            self._refuse(f"{self._who} uses a dataset or loader")

    def _meet_names(self, names: set[str], space: dict[str, Any], module: str, within: tuple[str, ...] = ()) -> None:
        """Records what names refer to in a module, and in the modules that they refer to."""
        for name in sorted(names & space.keys()):
            value = space[name]
            self._refuse_data(value)
            if not isinstance(value, types.ModuleType):
                if is_own_module(module) or isinstance(value, PLAIN):
                    self._meet(Place(f"{module}.{name}", space, name))
                    self._meet_classes_in([value])
            elif is_own_module(value.__name__):
                if value.__name__ not in (module, *within):
                    self._meet_names(names, vars(value), value.__name__, (module, *within))
                if not BY_ANY_NAME.isdisjoint(names):
                    self._meet(Place(f"the module {value.__name__}", value))

    def _meet_classes_in(self, values: Iterable[Any], depth: int = 9) -> None:
        for value in values:
            if type(value) is RefusingValue or isinstance(value, PLAIN) or id(value) in self._looked:
                continue
            self._looked[id(value)] = value
            if isinstance(value, type) or is_own_object(value):
                self._meet_class(value if isinstance(value, type) else type(value))
            self._by_any_name = self._by_any_name or isinstance(value, operator.attrgetter)
            inside = contents_of(value)
            if isinstance(value, types.SimpleNamespace) or is_own_object(value):
                inside = contents_of(attributes_of(value))
            if depth and 0 < len(inside) < FEW:
                self._meet_classes_in(inside, depth - 1)

    def _meet_class(self, cls: type) -> None:
        metaclass: type = type(cls)
        own = [each for each in (*cls.__mro__, *metaclass.__mro__) if is_own(each)]
        functions = [f for each in own for f in vars(each).values() if isinstance(f, types.FunctionType)]
        named = {name for function in functions for name in names_in(function.__code__)}
        for each in own:
            if each not in self._classes:
                self._classes.add(each)
                for key, value in list(vars(each).items()):
                    if key not in MAKING and (isinstance(value, FUNCTIONS) or not is_of_python(key)):
                        needed = key in named or hasattr(type(value), "__next__")
                        self._meet(Place(f"{name_of(each)}.{key}", each, key), needed)
                        self._meet_classes_in([value])

    def _meet(self, place: Place, needed: bool = False) -> None:
        key = id(place.space), place.key
        if key in self._places:
            return
        place = replace(place, modules=self._modules)
        self._places[key], self._held[key] = place, 0
        references = sys.getrefcount(place.space)
        try:
            self._back[key] = place.keeping()
        except Exception:  # describing or copying may raise anything
            if needed or isinstance(place.space, dict) or not self._on_copies:
                self._refuse(f"{place.label} cannot be restored after a trial")
            self._problems.add(key)  # raised if it existed before and can be reached
        self._held[key] = sys.getrefcount(place.space) - references

    def _settle(self) -> None:
        """Drops what no code that ran can reach, and adds what that code encloses."""
        self._back.clear()
        for key, place in list(self._places.items()):
            name = str(place.key)
            if isinstance(place.space, type) and not (self._by_any_name or name in self._keys or is_of_python(name)):
                del self._places[key]
            elif key in self._problems:
                raise CannotFuseError(f"{place.label} cannot be restored after a trial")
        for function in gc.get_referrers(*self._enclosed) if self._enclosed else []:
            if isinstance(function, types.FunctionType):
                inside = enclosed(function)
                if inside and tuple(map(id, inside)) in self._enclosed[function.__code__]:
                    self._meet(Place(f"the closure of {function.__qualname__}", function))
        self._back.clear()
        labels: dict[str, int] = {}
        for key, place in self._places.items():
            labels[place.label] = labels.get(place.label, 0) + 1
            if labels[place.label] > 1:
                self._places[key] = replace(place, label=f"{place.label} ({labels[place.label]})")
