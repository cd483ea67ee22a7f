"""Passes what compiled updates logged to the module's metrics and to Lightning's own `self.log`."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.utilities import dim_zero_cat, dim_zero_sum

from multistep._capture import BatchValue, Captured, Logged, MetricCall
from multistep._copies import leaving_graphs
from multistep._errors import EngineMismatchError
from multistep._late_metrics import LateMetrics
from multistep._tree import rebuild

ADDITIVE = tuple(f"torchmetrics.{kind}" for kind in ("aggregation", "classification", "regression"))
# They add up as long as their window holds zeros, or every example has a label.
NOT_ADDITIVE = ("torchmetrics.aggregation.Running", "torchmetrics.classification.ranking.")
SUMS = (dim_zero_sum, dim_zero_cat)  # reductions that may allow many minibatches to be given as one


class QuickLog:
    """Replaces a module's `log`, and repeats an earlier call with a new number in a tenth of the time.

    Lightning searches all attributes of its results at every call. It still handles every other call.

    Args:
        module: the module whose `log` is replaced in its `training_step`.

    Attributes:
        noted: the logged numbers by name, each (1,); None if nothing needs them.
    """

    def __init__(self, module: LightningModule) -> None:
        self._module = module
        self._log = module.log
        self.noted: dict[str, list[Tensor]] | None = None
        self._is_lightnings = type(module).log is LightningModule.log
        self._known: set[Any] = set()

    def __call__(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        quick = self._is_lightnings and isinstance(value, Tensor)
        if not (quick and self._logged_again(name, value, args, kwargs)):
            self._log(name, value, *args, **kwargs)
        if self.noted is not None and isinstance(value, (int, float, Tensor)):
            self.noted.setdefault(name, []).append(torch.as_tensor(value).detach().clone().reshape(1))

    def _logged_again(self, name: str, value: Tensor, args: Any, kwargs: dict[str, Any]) -> bool:
        try:
            call = (name, args, tuple(kwargs.items()))
            known = call in self._known
            self._known.add(call)
        except TypeError:  # an argument that cannot be hashed
            return False
        trainer: Any = self._module.trainer
        metric = trainer._results.get(f"training_step.{name}")
        if (
            not known
            or metric is None
            or value.numel() != 1
            or trainer._logger_connector.should_reset_tensors("training_step")
        ):
            return False
        if (
            not metric.is_tensor
            or metric.meta.enable_graph
            or value.device != metric.value.device
            or value.dtype != metric.value.dtype
        ):
            return False
        size = trainer._results._extract_batch_size(metric, kwargs.get("batch_size"), metric.meta)
        metric.forward(value.detach().clone().squeeze(), size)
        metric.has_reset = False
        metric._computed = None
        trainer._logger_connector._current_fx = "training_step"
        return True


class Replay:
    """Passes the outputs of compiled updates to the module's metrics and to Lightning, as if they came one by one.

    Args:
        module: the module whose `log` is called.
        captured: the outputs of one step; those of K minibatches come in the same order, each (K, ...).
        metrics: the metrics that these outputs are passed to.
    """

    def __init__(self, module: LightningModule, captured: Captured, metrics: LateMetrics) -> None:
        self._module, self._metrics = module, metrics
        self._captured = captured
        self._log_again = QuickLog(module)
        self._at_once: dict[str, bool] = {}  # by metric and shapes, whether many minibatches can be given as one

    def __call__(self, outputs: Sequence[Tensor], begin: int, end: int) -> None:
        """Replays the minibatches `begin` to `end - 1`; Lightning may log after them."""
        context = self._module.trainer.precision_plugin.train_step_context()  # a step logs in this context
        with context, self._metrics.checked():
            self._hand_over(outputs, begin, end)

    def _hand_over(self, outputs: Sequence[Tensor], begin: int, end: int) -> None:
        rest = iter(outputs[1:])
        values = {id(log): next(rest) for log in self._captured.logs if isinstance(log.value, Tensor)}
        of_metrics = [
            self._update(call, [next(rest)[begin:end] for _ in call.tensors], end - begin)
            for call in self._captured.calls
        ]
        self._module._current_fx_name = "training_step"  # Lightning lets a module log in this hook
        try:
            for log in self._captured.logs:
                self._log(log, values.get(id(log)), of_metrics, begin, end)
        finally:
            self._module._current_fx_name = None

    def _log(self, log: Logged, values: Any, of_metrics: list[Any], begin: int, end: int) -> None:
        options: dict[str, Any] = dict(log.options)
        if isinstance(log.value, str):
            self._log_again(log.name, self._module.get_submodule(log.value), **options)
            return
        if isinstance(log.value, BatchValue):
            found = of_metrics[log.value.call]
            each = [value if log.value.key is None else value[log.value.key] for value in found]
            values = torch.stack([torch.as_tensor(value) for value in each])
        elif values is None:
            values = torch.full((end - begin,), float(log.value), dtype=torch.get_default_dtype())
        else:
            values = values[begin:end]
        self._log_again(log.name, values[-1], **options)
        if end - begin > 1:
            self._accumulate(log.name, values[:-1].detach(), options.get("batch_size"))

    def _accumulate(self, name: str, values: Tensor, batch_size: int | None) -> None:
        """Adds further values to a logged one, as Lightning's `_ResultMetric.update` would one by one."""
        results: Any = self._module.trainer._results
        metric = results.get(f"training_step.{name}")
        if metric is None or not metric.meta.on_epoch:  # a trainer with `barebones` has none
            return
        values = values if values.dtype in (torch.float32, torch.float64) else values.to(metric.value.dtype)
        if metric.meta.is_mean_reduction:
            size = results._extract_batch_size(metric, batch_size, metric.meta)
            metric.value = metric.value + (values * size).sum()
            metric.cumulated_batch_size = metric.cumulated_batch_size + size * len(values)
        elif metric.meta.is_sum_reduction:
            metric.value = metric.value + values.sum()
        else:
            metric.value = metric.meta.reduce_fx(metric.value, metric.meta.reduce_fx(values))

    def _update(self, call: MetricCall, tensors: list[Tensor], count: int) -> list[Any]:
        """Updates a metric by minibatches; returns the values of its `forward`, at least that of the last minibatch."""
        metric: Any = self._module.get_submodule(call.path)
        logged = [
            log
            for log in self._captured.logs
            if isinstance(log.value, BatchValue) and self._captured.calls[log.value.call] is call
        ]
        method = metric if call.method == "forward" else metric.update
        last = self._arguments(call, [tensor[-1] for tensor in tensors])
        if count > 1 and not logged and tensors and _are_alike(tensors) and self._takes_all(metric, call, tensors):
            args, kwargs = self._arguments(call, [tensor[:-1].flatten(0, 1) for tensor in tensors])
            _update_at_once(metric, args, kwargs, count - 1)
            for part in _parts_of(metric):
                part._update_count += count - 2  # it has counted one of count - 1
            return [method(*last[0], **last[1])]
        values, versions = [], [tensor._version for tensor in tensors]
        for i in range(count):
            args, kwargs = self._arguments(call, [tensor[i] for tensor in tensors])
            values.append(method(*args, **kwargs))
        if [tensor._version for tensor in tensors] != versions:  # the step would have used the new values
            raise EngineMismatchError(f"the metric {call.path} changes its arguments in place; use engine eager")
        return values

    @staticmethod
    def _arguments(call: MetricCall, tensors: list[Tensor]) -> Any:
        return rebuild(call.layout, tensors)

    def _takes_all(self, metric: Any, call: MetricCall, tensors: list[Tensor]) -> bool:
        """Returns whether one update with all minibatches leaves a metric in the same state as one update with each.

        Tried once for each metric and shapes: its states must be sums or lists, and must agree on copies.
        """
        key = f"{call.path} {[tuple(tensor.shape[1:]) for tensor in tensors]}"
        if key not in self._at_once:
            self._at_once[key] = self._agrees(metric, call, tensors)
        return self._at_once[key]

    def _agrees(self, metric: Any, call: MetricCall, tensors: list[Tensor]) -> bool:
        if any(tensor.dim() < 2 for tensor in tensors):
            return False
        parts = _parts_of(metric)
        # One chunk does not show that the next will be additive, too: an image metric may scale by a minibatch's range.
        kinds = [f"{type(part).__module__}.{type(part).__name__}" for part in parts]
        if not all(kind.startswith(ADDITIVE) and not kind.startswith(NOT_ADDITIVE) for kind in kinds):
            return False
        if len({len(tensor[0]) for tensor in tensors}) > 1 or not all(part._defaults for part in parts):
            return False
        if any(part._reductions[name] not in SUMS for part in parts for name in part._defaults):
            return False
        states = []
        for sizes in ((len(tensors[0]),), (1,) * len(tensors[0])):
            twin = copy.deepcopy(metric, leaving_graphs(metric))
            twin.reset()
            begin = 0
            for size in sizes:
                flat = [tensor[begin : begin + size].flatten(0, 1) for tensor in tensors]
                args, kwargs = self._arguments(call, flat)
                _update_at_once(twin, args, kwargs, size)
                begin += size
            found = [getattr(part, name) for part in _parts_of(twin) for name in part._defaults]
            states.append([each for state in found for each in (state if isinstance(state, list) else [state])])
        return len(states[0]) == len(states[1]) and all(
            one.shape == other.shape
            and torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-6, equal_nan=True)
            for one, other in zip(*states, strict=True)
        )


def _are_alike(tensors: Sequence[Tensor]) -> bool:
    """Returns whether all minibatches hold probabilities, or none does: metrics recognize logits by their range."""
    for tensor in tensors:
        if tensor.is_floating_point():
            inside = ((tensor >= 0) & (tensor <= 1)).reshape(len(tensor), -1).all(1)  # nan is not
            if inside.any() and not inside.all():
                return False
    return True


def _parts_of(metric: Any) -> list[Any]:
    return list(metric.values(copy_state=False)) if isinstance(metric, MetricCollection) else [metric]


def _update_at_once(metric: Any, args: Any, kwargs: Any, minibatches: int) -> None:
    """Updates a metric by several minibatches joined to one; each of its lists still gets an entry per minibatch."""
    lists = [(p, name) for p in _parts_of(metric) for name in p._defaults if isinstance(getattr(p, name), list)]
    lengths = [len(getattr(part, name)) for part, name in lists]
    metric.update(*args, **kwargs)
    for (part, name), length in zip(lists, lengths, strict=True):
        state = getattr(part, name)
        if len(state) == length + 1 and state[-1].dim() and len(state[-1]) % minibatches == 0:
            state[-1:] = [*map(torch.clone, state[-1].chunk(minibatches))]
