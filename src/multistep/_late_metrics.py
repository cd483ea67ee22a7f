"""Tries metrics on copies: compiled code updates them after a chunk, not within each minibatch."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from multistep._capture import Captured, MetricCall
from multistep._copies import leaving_graphs
from multistep._describe import describe, first_difference
from multistep._errors import CannotFuseError, EngineMismatchError
from multistep._guards import guarded, identical, random_states
from multistep._reach import has_data, held_in, in_common, reaches_the_training
from multistep._record import Recorder
from multistep._tree import rebuild
from multistep._undo import Place
from multistep._user_state import UserState
from multistep._watch import OF_EVERY_METRIC


class LateMetrics:
    """Tries the metrics of a step on copies; raises a CannotFuseError if one cannot be updated after a chunk.

    Args:
        module: the module that the metrics belong to.
        captured: the outputs of a step.
        outputs: the outputs of some minibatches, each (minibatches, ...).
        state: what the metrics must not change.
        data: what fetches minibatches, before the updates.
        reads: returns whether a step or a schedule may read an attribute of this name.

    Attributes:
        places: the places where metrics find values.
    """

    def __init__(
        self,
        module: LightningModule,
        captured: Captured,
        outputs: Sequence[Tensor],
        state: UserState,
        data: Sequence[Any],
        reads: Callable[[str], bool],
    ) -> None:
        self._module, self._data, self._reads = module, data, reads
        self._paths = [call.path for call in captured.calls]
        self.places: list[Place] = []
        rest = iter(outputs[1 + sum(isinstance(log.value, Tensor) for log in captured.logs) :])
        for call in captured.calls:
            self._try(call, [next(rest).clone() for _ in call.tensors], state)

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Raises an EngineMismatchError if the metrics' updates in the block do what the trial ruled out."""
        if not self._paths:
            yield
            return
        before, plain = random_states(), [self._plain(self._module.get_submodule(path)) for path in self._paths]
        yield
        after = [self._plain(self._module.get_submodule(path)) for path in self._paths]
        for path, one, other in zip(self._paths, plain, after, strict=True):
            if changed := first_difference(one, other):
                what = f"changes its attribute {changed}, which a step or schedule reads"
                raise EngineMismatchError(f"the metric {path} {what}; use engine eager")
        if random_states() != before:
            raise EngineMismatchError("a metric draws random numbers; use engine eager")

    def _try(self, call: MetricCall, tensors: list[Tensor], state: UserState) -> None:
        metric: Any = self._module.get_submodule(call.path)
        who = f"the metric {call.path}"
        self._refuse_what_it_can_access(metric, who)
        given, drew = [tensor.clone() for tensor in tensors], False
        with guarded(), state.kept(who):
            before = torch.get_rng_state()
            twin = copy.deepcopy(metric, leaving_graphs(metric))
            plain = self._plain(twin)
            copies = {*map(id, held_in([twin]))} - {*map(id, held_in([metric]))}
            recorder = Recorder(nn.Module(), copies, who, shared=in_common([twin], [metric]))
            rows = [*zip(*tensors, strict=True)] or [()]
            (args, kwargs), *others = [rebuild(call.layout, [*row]) for row in rows]
            with state.kept(who):  # by itself, as the next may undo its change
                recorder.run(lambda: twin.update(*args, **kwargs))
            once = self._plain(twin)
            for more, options in others:
                twin.update(*more, **options)
            drew = not torch.equal(before, torch.get_rng_state())
            changed = first_difference(plain, once) or first_difference(plain, self._plain(twin))
        if drew:
            raise CannotFuseError(f"{who} draws random numbers")
        if not all(map(identical, given, tensors)):
            raise CannotFuseError(f"{who} changes its arguments in place")
        if changed is not None:
            raise CannotFuseError(f"{who} changes its attribute {changed}, which a step or schedule reads")
        self.places += [*recorder.places, *recorder.shared]

    def _refuse_what_it_can_access(self, metric: nn.Module, who: str) -> None:
        parts = {*map(id, metric.modules())}
        inside = [value for part in metric.modules() for key, value in vars(part).items() if key != "_modules"]
        others = [each for each in self._module.modules() if id(each) not in parts]
        trained = [*self._module.parameters(), *self._module.buffers()]
        if reaches_the_training(inside, others, trained):
            raise CannotFuseError(f"{who} can access the module or the trainer")
        held = [value for value in held_in(self._data) if isinstance(value, Tensor)]
        if has_data(inside) or reaches_the_training(inside, self._data, held):
            raise CannotFuseError(f"{who} can access the data")
        if any(isinstance(getattr(part, "nan_strategy", None), float) for part in metric.modules()):
            raise CannotFuseError(f"{who} changes its arguments in place")

    def _plain(self, metric: nn.Module) -> dict[str, Any]:
        """Returns a description of the attributes of a metric that are no states and that are read elsewhere."""
        return {
            f"{path}.{key}".strip("."): describe(value)
            for path, part in metric.named_modules()
            for key, value in vars(part).items()
            if key not in OF_EVERY_METRIC and key not in getattr(part, "_defaults", ()) and self._reads(key)
        }
