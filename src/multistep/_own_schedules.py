"""Steps user-defined schedules before the updates that they follow, if they depend on nothing else."""

import copy
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric

from multistep._errors import CannotFuseError
from multistep._fused import FusedEngine
from multistep._guards import guarded, reading_nothing
from multistep._reach import changeable_in
from multistep._record import Recorder
from multistep._schedules import all_in, functions_of, is_of_ones_own, schedulers_in
from multistep._undo import Place

TRIED = 2  # steps of a copy, as a trial


class OwnSchedules:
    """Steps a trainer's schedules ahead of time; raises a CannotFuseError if one changes more than its own counters.

    Args:
        trainer: the trainer that has the schedules.
        engine: the engine whose updates they precede.

    Attributes:
        places: the places where the functions of these schedules find values.
    """

    def __init__(self, trainer: Any, engine: FusedEngine) -> None:
        self._module: nn.Module = trainer.lightning_module
        self._engine = engine
        stepped = [c for c in trainer.lr_scheduler_configs if c.interval == "step" and not c.reduce_on_plateau]
        self._parts = _parts_of(trainer)
        self._own = [config.scheduler for config in stepped if is_of_ones_own(config.scheduler)]
        self.places: list[Place] = []
        for scheduler in self._own:
            self.places += self._tried(scheduler, trainer)

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
        with _unchanged([*self._engine.places(), *self.places]), reading_nothing(read):
            yield

    def _tried(self, scheduler: Any, trainer: Any) -> list[Place]:
        """Steps a copy of a schedule, and returns the places where it finds values."""
        optimizer = scheduler.optimizer
        twin = object.__new__(type(optimizer))
        vars(twin).update({**vars(optimizer), "param_groups": [dict(group) for group in optimizer.param_groups]})
        kept = [trainer, *self._module.modules(), *self._module.parameters(), *self._module.buffers()]
        functions = functions_of(schedulers_in(scheduler))
        kept += functions
        memo = {id(value): value for value in kept} | {id(optimizer): twin}
        try:
            other = copy.deepcopy(scheduler, memo)
        except Exception as error:  # its attributes may raise anything
            raise CannotFuseError(f"the schedule {type(scheduler).__name__} cannot be copied") from error
        who = f"the schedule {type(scheduler).__name__}"
        watched = {id(trainer), *map(id, self._module.modules())}  # restored by other means, or refused when read
        recorder = Recorder(nn.Module(), {id(other), id(twin)}, who, self._module, changeable_in(functions, watched))

        def step() -> None:
            for _ in range(TRIED):
                other.step()

        with guarded(), _unchanged(self._engine.places()):
            recorder.run(step)
        return [*recorder.places, *recorder.shared]


def _parts_of(trainer: Any) -> list[Any]:
    """Returns a trainer's schedules, and the functions that they call."""
    schedulers = all_in(trainer.lr_scheduler_configs)
    return [*schedulers, *functions_of(schedulers)]


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
