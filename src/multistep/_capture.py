"""Captures the outputs of a step that runs on a copy: its loss, its logs, and the arguments of its metrics."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from multistep._errors import CannotFuseError
from multistep._guards import RefusingValue
from multistep._tree import Layout, flatten

SIGNATURE = inspect.signature(LightningModule.log)


@dataclass(frozen=True)
class BatchValue:
    """Stands for the value that a metric's `forward` returns for a minibatch; a step may only log it."""

    call: int
    key: str | None = None  # in the dictionary that a MetricCollection returns


def _refusing(value: BatchValue) -> Any:
    return RefusingValue("training_step computes with the value of a metric", of=value)


@dataclass(eq=False)
class MetricCall:
    """A call of a metric's `update` or `forward` in a step, with the tensors among its arguments."""

    path: str
    method: str
    layout: Layout
    tensors: list[Tensor]


@dataclass(eq=False)
class Logged:
    """A call of `self.log` with a constant, a value computed at every update, or a metric."""

    name: str
    options: dict[str, Any]
    value: Any  # a number, Tensor, BatchValue, or the path of a metric


@dataclass(eq=False)
class Captured:
    """All outputs of a step except its gradients."""

    loss: Tensor
    extra: dict[str, Any] = field(default_factory=dict)
    logs: list[Logged] = field(default_factory=list)
    calls: list[MetricCall] = field(default_factory=list)
    nodes: int = 0  # in the graph of the loss, if they were counted
    low: bool = False  # whether any node computes in 16 bits
    requires: bool = False  # whether the step makes a tensor of the minibatch require a gradient

    def tensors(self) -> list[Tensor]:
        """Returns the loss, the logged values, the metric arguments and the other returned tensors, all detached."""
        logged = [log.value for log in self.logs if isinstance(log.value, Tensor)]
        arguments = [tensor for call in self.calls for tensor in call.tensors]
        others = [value for value in self.extra.values() if isinstance(value, Tensor)]
        return [value.detach() for value in (self.loss, *logged, *arguments, *others)]

    def structure(self) -> list[Any]:
        """Returns everything about the outputs that must be the same at every update, as comparable values."""
        logs = [(log.name, sorted(map(repr, log.options.items())), _kind(log.value)) for log in self.logs]
        calls = [(call.path, call.method, call.layout) for call in self.calls]
        extra = [(key, _kind(value)) for key, value in self.extra.items()]
        return [_kind(self.loss), logs, calls, extra]

    def named(self, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns the outputs of an update, given in the order of `tensors`, by name, for messages."""
        names = ["the loss", *(f"{log.name} as logged" for log in self.logs if isinstance(log.value, Tensor))]
        names += [f"output {number}" for number in range(len(names), len(outputs))]
        unique = [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names)]
        return dict(zip(unique, outputs, strict=True))


def _kind(value: Any) -> Any:
    return (tuple(value.shape), str(value.dtype)) if isinstance(value, Tensor) else repr(value)


class Capture:
    """Replaces a module's `log` and the methods of its metrics while its step runs on a copy."""

    def __init__(self, module: LightningModule) -> None:
        self._module = module
        self.logs: list[Logged] = []
        self.calls: list[MetricCall] = []
        self._metrics = {id(child): name for name, child in module.named_modules() if isinstance(child, Metric)}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Records logs and metric calls within the block, instead of performing them."""
        places: list[tuple[dict[str, Any], str, Any]] = [(self._module.__dict__, "log", self._log)]
        inner = {
            id(metric)
            for child in self._module.modules()
            if isinstance(child, MetricCollection)
            for metric in child.modules()
            if metric is not child
        }
        for name, child in self._module.named_modules():
            if isinstance(child, (Metric, MetricCollection)) and id(child) not in inner:
                for method in ("update", "forward"):
                    places.append((child.__dict__, method, self._noting(name, method, child)))
                for method in ("compute", "reset"):
                    places.append((child.__dict__, method, self._refusing(method)))
            if isinstance(child, MetricCollection):  # its metrics share states, but only their names are needed
                places.append((child.__dict__, "_compute_groups_create_state_ref", lambda copy=False: None))
            if isinstance(child, Metric):
                unread: Any = RefusingValue("training_step reads the state of a metric")
                places += [(child.__dict__, state, unread) for state in (*child._defaults, "_update_count")]
        missing = object()
        before = [(space, key, space.get(key, missing)) for space, key, _ in places]
        try:
            for space, key, value in places:
                space[key] = value
            yield
        finally:
            changed = next((key for space, key, value in places if space.get(key, missing) is not value), None)
            for space, key, value in before:
                if value is missing:
                    space.pop(key, None)
                else:
                    space[key] = value
        if changed is not None:
            raise CannotFuseError(f"training_step changes {changed} of a metric or the module")

    def _log(self, *args: Any, **kwargs: Any) -> None:
        bound = SIGNATURE.bind(self._module, *args, **kwargs).arguments
        name, value = bound["name"], bound["value"]
        if type(value) is RefusingValue:
            value = vars(value).get("of", value)
        options = {key: option for key, option in bound.items() if key not in ("self", "name", "value")}
        if tensor := next((key for key, option in options.items() if isinstance(option, Tensor)), None):
            raise CannotFuseError(f"the option {tensor} of the value logged as {name} is a tensor")
        if isinstance(value, Metric):
            if id(value) not in self._metrics:
                raise CannotFuseError(f"the metric logged as {name} is not a submodule")
            value = self._metrics[id(value)]
            if not any(value == call.path or value.startswith(f"{call.path}.") for call in self.calls):
                raise CannotFuseError(f"training_step logs the metric {value} before it updates it")
        elif isinstance(value, Tensor):
            if value.numel() != 1:
                raise CannotFuseError(f"the value logged as {name} is not a single number")
            value = value.detach().clone().reshape(())
        elif not isinstance(value, (bool, int, float, BatchValue)):
            raise CannotFuseError(f"training_step logs a {type(value).__name__} as {name}")
        self.logs.append(Logged(name, options, value))

    def _noting(self, path: str, method: str, metric: Any) -> Any:
        def note(*args: Any, **kwargs: Any) -> Any:
            try:
                tensors, layout = flatten((args, kwargs))
            except TypeError as error:
                raise CannotFuseError(
                    f"an argument of the metric {path} cannot be returned from compiled code"
                ) from error
            number = len(self.calls)
            if any(path == call.path for call in self.calls):
                raise CannotFuseError(f"training_step updates the metric {path} more than once")
            self.calls.append(MetricCall(path, method, layout, [tensor.detach() for tensor in tensors]))
            if method == "update":
                return None
            if isinstance(metric, MetricCollection):
                return {str(key): _refusing(BatchValue(number, str(key))) for key in metric.keys(keep_base=False)}
            return _refusing(BatchValue(number))

        return note

    @staticmethod
    def _refusing(method: str) -> Any:
        def refuse(*_: Any, **__: Any) -> Any:
            raise CannotFuseError(f"training_step calls a metric's {method}")

        return refuse
