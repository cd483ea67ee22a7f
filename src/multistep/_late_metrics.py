"""Tries metrics on copies: compiled code updates them after a chunk, not within each minibatch."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from multistep._capture import MetricCall
from multistep._copies import leaving_graphs
from multistep._describe import describe, first_difference
from multistep._errors import CannotFuseError, EngineMismatchError
from multistep._fused import FusedEngine
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
        engine: the engine whose updates they follow.
        state: returns what the metrics must not change.
        data: what fetches minibatches, before the updates.
        reads: returns whether a step or a schedule may read an attribute of this name.

    Attributes:
        places: the places where metrics find values.
    """

    def __init__(
        self,
        module: LightningModule,
        engine: FusedEngine,
        state: Callable[[], UserState],
        data: Sequence[Any],
        reads: Callable[[str], bool],
    ) -> None:
        self._module, self._data, self._reads = module, data, reads
        self._read: set[str] = set()  # paths of metrics with attributes that are read elsewhere
        self._runs_own_code = False  # of the user
        self.places: list[Place] = []
        logged = sum(isinstance(log.value, Tensor) for log in engine.captured.logs)
        rest = iter(engine.trial_outputs()[1 + logged :])
        for call in engine.captured.calls:
            self._try(call, [next(rest).clone() for _ in call.tensors], state())

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Raises an EngineMismatchError if the metrics' updates in the block do what the trial ruled out."""
        if not (self._runs_own_code or self._read):
            yield
            return
        before, plain = random_states(), {path: self._read_of(self._module.get_submodule(path)) for path in self._read}
        yield
        for path, one in plain.items():
            if changed := first_difference(one, self._read_of(self._module.get_submodule(path))):
                raise EngineMismatchError(f"{_changes(path, changed)}; use engine eager")
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
            plain = self._read_of(twin)
            copies = {*map(id, held_in([twin]))} - {*map(id, held_in([metric]))}
            recorder = Recorder(nn.Module(), copies, who, shared=in_common([twin], [metric]))
            rows = [*zip(*tensors, strict=True)] or [()]
            (args, kwargs), *others = [rebuild(call.layout, [*row]) for row in rows]
            with state.kept(who):  # by itself, as the next may undo its change
                recorder.run(lambda: twin.update(*args, **kwargs))
            once = self._read_of(twin)
            for more, options in others:
                twin.update(*more, **options)
            drew = not torch.equal(before, torch.get_rng_state())
            changed = first_difference(plain, once) or first_difference(plain, self._read_of(twin))
        if drew:
            raise CannotFuseError(f"{who} draws random numbers")
        imputes = any(isinstance(getattr(part, "nan_strategy", None), float) for part in metric.modules())
        if imputes or not all(map(identical, given, tensors)):
            raise CannotFuseError(f"{who} changes its arguments in place")
        if changed is not None:
            raise CannotFuseError(_changes(call.path, changed))
        self._read |= {call.path} if plain else set()
        self._runs_own_code = self._runs_own_code or bool(recorder.codes)
        self.places += [*recorder.places, *recorder.shared]

    def _refuse_what_it_can_access(self, metric: nn.Module, who: str) -> None:
        parts = {*map(id, metric.modules())}
        inside = [value for part in metric.modules() for key, value in vars(part).items() if key != "_modules"]
        others = [each for each in self._module.modules() if id(each) not in parts]
        own = {*map(id, metric.buffers())}
        trained = [*self._module.parameters(), *(b for b in self._module.buffers() if id(b) not in own)]
        if reaches_the_training(inside, others, trained):
            raise CannotFuseError(f"{who} can access the module or the trainer")
        held = [value for value in held_in(self._data) if isinstance(value, Tensor)]
        if has_data(inside) or reaches_the_training(inside, self._data, held):
            raise CannotFuseError(f"{who} can access the data")

    def _read_of(self, metric: nn.Module) -> dict[tuple[str, str], Any]:
        """Returns a description of the attributes of a metric that are no states and that are read elsewhere."""
        return {
            (path, key): describe(value)
            for path, part in metric.named_modules()
            for key, value in vars(part).items()
            if key not in OF_EVERY_METRIC and key not in getattr(part, "_defaults", ()) and self._reads(key)
        }


def _changes(path: str, attribute: tuple[str, str]) -> str:
    name = ".".join(filter(None, (path, *attribute)))
    return f"{name} is changed by the update of a metric, and read by a step or schedule"
