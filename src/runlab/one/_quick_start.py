"""Speeds up the start of a command by deferring imports of torch and torchmetrics until they are used.

Lightning would import `torch._dynamo`, torchmetrics' functions, and matplotlib for their plots. Torch would also read
the source of its own operators to find where they are registered; this is skipped. docs/speed.md gives the time saved.
"""

import atexit
import gc
import inspect
import logging
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

PLOT = "torchmetrics.utilities.plot"


class _Waiting(ModuleType):
    def __getattr__(self, name: str) -> Any:  # called only for an attribute that is missing
        if name.startswith("__"):
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
        return getattr(self, name)


class _Path(list[str]):
    def __iter__(self) -> Any:  # called when a submodule is imported
        getattr(sys.modules["torch._dynamo" if "_dynamo" in self[0] else "torchmetrics"], "anything", None)
        return super().__iter__()


class _Compiled(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return any(kind.__name__ == cls.__name__ for kind in type(instance).__mro__)


def quick_start() -> None:
    """Imports torch and Lightning with those modules deferred; if another release breaks this, undoes it."""
    compiled = _Compiled("OptimizedModule", (), {})
    frame_info = inspect.getframeinfo
    inspect.getframeinfo = lambda frame, context=0: frame_info(frame, 0)  # a line's number, not its text
    gc.disable()  # imported objects stay, and scanning them is slow, now and at exit
    atexit.register(_collect_once)
    try:
        dynamo = _waiting("torch._dynamo", import_module("torch").__path__)
        vars(dynamo).update(OptimizedModule=compiled, disable=lambda f, *_, **__: f, graph_break=lambda: None)
        metrics = _waiting("torchmetrics", None)
        metrics._logger = logging.getLogger("torchmetrics")
        plot = _waiting(PLOT, [f"{metrics.__path__[0]}/utilities"])
        vars(plot).update(_AX_TYPE=Any, _PLOT_OUT_TYPE=Any, plot_single_or_multi_val=_plot)
        import_module("torchmetrics.utilities")
        metrics.Metric = import_module("torchmetrics.metric").Metric
        metrics.MetricCollection = import_module("torchmetrics.collections").MetricCollection
        import_module("pytorch_lightning")
        dynamo.__path__, metrics.__path__ = _Path(dynamo.__path__), _Path(metrics.__path__)
    except Exception:
        for name in [*sys.modules]:
            if name.startswith(("torch._dynamo", "torchmetrics", "pytorch_lightning", "lightning_fabric")):
                del sys.modules[name]
    inspect.getframeinfo = frame_info
    gc.freeze()
    gc.enable()


def _collect_once() -> None:
    gc.collect()
    gc.freeze()


def _waiting(name: str, path: Any) -> Any:
    module = module_from_spec(PathFinder.find_spec(name, path))  # type: ignore[arg-type]
    module.__class__ = _Waiting
    return sys.modules.setdefault(name, module)


def _plot(*args: Any, **kwargs: Any) -> Any:
    del sys.modules[PLOT]
    return import_module(PLOT).plot_single_or_multi_val(*args, **kwargs)
