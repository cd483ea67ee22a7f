"""Steps user-defined schedules before the updates that they follow, if they depend on nothing else."""

import copy
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric

from multistep._describe import describe
from multistep._errors import CannotFuseError
from multistep._fused import FusedEngine
from multistep._guards import guarded, reading_nothing
from multistep._optimizers import OF_EVERY_OPTIMIZER
from multistep._reach import changeable_in
from multistep._record import Recorder
from multistep._schedules import all_in, functions_of, is_of_ones_own, schedulers_in
from multistep._undo import Place
from multistep._user_state import UserState

TRIED = 2  # further steps of a copy, as a trial


class OwnSchedules:
    """Steps a trainer's schedules ahead of time; raises a CannotFuseError if one changes more than its own counters.

    Args:
        trainer: the trainer that has the schedules.
        engine: the engine whose updates they precede.
        state: returns what else they must not change.

    Attributes:
        places: the places where the functions of these schedules find values.
        later: the places where metrics find values, after the updates.
    """

    def __init__(self, trainer: Any, engine: FusedEngine, state: Callable[[], UserState]) -> None:
        self._module: nn.Module = trainer.lightning_module
        self._engine = engine
        stepped = [c for c in trainer.lr_scheduler_configs if c.interval == "step" and not c.reduce_on_plateau]
        self._parts = _parts_of(trainer)
        self._own = [config.scheduler for config in stepped if is_of_ones_own(config.scheduler)]
        self.places: list[Place] = []
        self.later: Sequence[Place] = ()
        self._recorders: list[Recorder] = []
        for scheduler in self._own:
            self._try(scheduler, trainer, state())

    def may_read(self, key: str) -> bool:
        """Returns whether the code of the schedules may read an attribute of this name."""
        return any(recorder.has(key) for recorder in self._recorders)

    def are_those_of(self, trainer: Any) -> bool:
        """Returns whether the trainer still has the same schedules, with the same functions."""
        parts = _parts_of(trainer)
        return len(parts) == len(self._parts) and all(map(operator.is_, parts, self._parts))

    @contextmanager
    def stepped_ahead(self) -> Iterator[None]:
        """Restores what stepping schedules changes besides themselves, and raises a CannotFuseError for it."""
        if not self._own:
            yield
            return
        metrics = [child for child in self._module.modules() if isinstance(child, Metric)]
        states = [getattr(metric, name) for metric in metrics for name in metric._defaults]
        read = [*self._engine.state(), *(state for state in states if isinstance(state, Tensor))]
        places = [*self._engine.watch.places(self._module), *self.places, *self.later]
        with _unchanged_optimizer(self._own[0].optimizer), _unchanged(places), reading_nothing(read):
            yield

    def _try(self, scheduler: Any, trainer: Any, state: UserState) -> None:
        """Steps a copy of a schedule under watch, and notes where it finds values."""
        optimizer = scheduler.optimizer
        twin = object.__new__(type(optimizer))
        vars(twin).update({**vars(optimizer), "param_groups": [dict(group) for group in optimizer.param_groups]})
        kept = [trainer, *self._module.modules(), *self._module.parameters(), *self._module.buffers()]
        functions = functions_of(schedulers_in(scheduler))
        kept += functions
        memo = {id(value): value for value in kept} | {id(optimizer): twin}
        who = f"the schedule {type(scheduler).__name__}"
        try:
            with state.kept(who):
                other = copy.deepcopy(scheduler, memo)
        except CannotFuseError:
            raise
        except Exception as error:  # its attributes may raise anything
            raise CannotFuseError(f"{who} cannot be copied") from error
        watched = {id(trainer), *map(id, self._module.modules())}  # restored by other means, or refused when read
        recorder = Recorder(nn.Module(), {id(other), id(twin)}, who, self._module, changeable_in(functions, watched))
        with guarded(), _unchanged(self._engine.watch.places(self._module)), state.kept(who):
            recorder.run(other.step)
        for _ in range(TRIED):  # each by itself, as the next one may undo a change
            with guarded(), _unchanged(self._engine.watch.places(self._module)), state.kept(who):
                other.step()
        self._recorders.append(recorder)
        self.places += [*recorder.places, *recorder.shared]


def _parts_of(trainer: Any) -> list[Any]:
    """Returns a trainer's schedules, and the functions that they call."""
    schedulers = all_in(trainer.lr_scheduler_configs)
    return [*schedulers, *functions_of(schedulers)]


@contextmanager
def _unchanged_optimizer(optimizer: Any) -> Iterator[None]:
    """Raises a CannotFuseError if the block changes an optimizer's state or attributes, and restores these.

    The engine restores the values of the tensors in the state.
    """
    own = {key: value for key, value in vars(optimizer).items() if key not in OF_EVERY_OPTIMIZER}
    state = {parameter: dict(kept) for parameter, kept in optimizer.state.items()}
    before = describe(own), _marks_of(optimizer)
    yield
    present = {key: value for key, value in vars(optimizer).items() if key not in OF_EVERY_OPTIMIZER}
    if (describe(present), _marks_of(optimizer)) != before:
        for key in present.keys() - own:
            delattr(optimizer, key)
        vars(optimizer).update(own)
        optimizer.state.clear()
        optimizer.state.update(state)
        raise CannotFuseError("a schedule changes the optimizer's state or attributes")


def _marks_of(optimizer: Any) -> list[Any]:
    return [
        (id(parameter), key, id(value), getattr(value, "_version", None))
        for parameter, kept in optimizer.state.items()
        for key, value in kept.items()
    ]


@contextmanager
def _unchanged(places: list[Place]) -> Iterator[None]:
    """Raises a CannotFuseError if the block changes one of these places, and restores them."""
    try:
        back = [place.keeping() for place in places]
    except TypeError as error:
        raise CannotFuseError(f"what a schedule may change cannot be restored ({error})") from error
    before = [place.described() for place in places]
    changed: str | None = None
    try:
        yield
    finally:
        after = [place.described() for place in places]
        changed = next((p.label for p, one, other in zip(places, before, after, strict=True) if one != other), None)
        if changed is not None:
            for put_back in back:
                put_back()
    if changed is not None:
        raise CannotFuseError(f"a schedule changes {changed}")
