"""A faster start: torch's compiler is imported when something compiles, and not because Lightning names it.

Lightning takes a class and a decorator from `torch._dynamo`, whose import takes half the time of Lightning's, and
optimizers call a function of it that does nothing outside the compiler. Until anything else of it is asked for, a
module stands in its place that has these three.
"""

import functools
import gc
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ngram_mlp.releases import unknown_release

DYNAMO = "torch._dynamo"


@contextmanager
def without_collections() -> Iterator[None]:
    """Garbage is not searched for within: imports create many objects that stay, and a fifth of their time is that."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if "triton" not in sys.modules:  # which would report what is frozen as leaked when the process ends
                gc.freeze()  # what was imported stays, and is not searched from now on
            gc.enable()


def postpone_dynamo() -> None:
    """Has `torch._dynamo` imported when something of it is asked for that only the compiler can do."""
    if DYNAMO not in sys.modules and unknown_release() is None:
        sys.modules[DYNAMO] = _Postponed()
        sys.meta_path.insert(0, _Submodules())


class _Kind(type):
    """A class whose instances are those of the compiler's class, of which there are none before it is imported."""

    def __instancecheck__(cls, instance: object) -> bool:
        module = sys.modules[DYNAMO]
        return not isinstance(module, _Postponed) and isinstance(instance, module.OptimizedModule)


class _OptimizedModule(metaclass=_Kind):
    pass


class _Postponed(ModuleType):
    OptimizedModule = _OptimizedModule

    def __init__(self) -> None:
        super().__init__(DYNAMO)
        self.__path__ = []  # a package, whose modules `_Submodules` finds

    @staticmethod
    def graph_break(*_: Any, **__: Any) -> None:
        """What an optimizer's step calls, for the compiler's attention."""

    @staticmethod
    def disable(function: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """What `torch.compiler.disable` returns: a function that is not compiled, were there a compiler."""
        if function is None:
            return functools.partial(_Postponed.disable, *args, **kwargs)
        disabled = None

        @functools.wraps(function)
        def call(*own_args: Any, **own_kwargs: Any) -> Any:
            nonlocal disabled
            if disabled is None and not isinstance(sys.modules[DYNAMO], _Postponed):
                disabled = sys.modules[DYNAMO].disable(function, *args, **kwargs)
            return (disabled or function)(*own_args, **own_kwargs)

        return call

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks every module for
            raise AttributeError(name)
        return getattr(_imported(), name)


class _Submodules(MetaPathFinder):
    """Imports the package in earnest before the first of its modules."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        if not name.startswith(f"{DYNAMO}."):
            return None
        _imported()
        if name in sys.modules:  # along with the package
            return ModuleSpec(name, _Present(sys.modules[name]), is_package=hasattr(sys.modules[name], "__path__"))
        return importlib.util.find_spec(name)


class _Present(Loader):
    """Finds a module that has been imported already."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, _: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def _imported() -> ModuleType:
    """The package itself, in its own place."""
    if isinstance(sys.modules.get(DYNAMO), _Postponed):
        del sys.modules[DYNAMO]
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Submodules)]
    return importlib.import_module(DYNAMO)
