"""What the callbacks that examine the network share: when, and the snapshot of the update."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, TypeVar

from pytorch_lightning import LightningModule, Trainer

from multistep import Calls
from ngram_mlp.callbacks.diagnosis import Diagnosis, is_an_end
from ngram_mlp.callbacks.recorder import NOTHING, Due, Recorder, begins_update
from ngram_mlp.diagnostics.snapshot import Snapshot, take_snapshot
from ngram_mlp.models import LanguageModel
from runlab import UserError, updates_of

PRESETS = {"default": "5000/50000/0", "often": "100/1000/10000", "each": "1/10/100"}
T = TypeVar("T")


@dataclass(frozen=True)
class Intervals:
    """The updates between two recordings of numbers, of histograms (and sampled names), and of figures.

    Whatever the interval, all are recorded at the last update; 0 means only there, `never` not even there.
    """

    numbers: int
    histograms: int
    figures: int
    never: bool = False

    @classmethod
    def parse(cls, text: str) -> "Intervals":
        """`off`, `default` (5000/50000/0), `often` (100/1000/10000), `each` (1/10/100), or three such numbers."""
        if text == "off":
            return cls(0, 0, 0, never=True)
        match = re.fullmatch(r"(\d+)/(\d+)/(\d+)", PRESETS.get(text, text))
        if match is None:
            forms = f"{', '.join(PRESETS)}, or the updates between two recordings of numbers, histograms and figures"
            raise UserError(f"give off, {forms}, such as 1000/10000/0 (0: only at the last)", every_n_updates=text)
        return cls(int(match[1]), int(match[2]), int(match[3]))

    @property
    def calls(self) -> Calls:
        """The updates around which the trainer has to call."""
        each = tuple(interval for interval in (self.numbers, self.histograms, self.figures) if interval)
        return Calls(around=None if self.never else each)

    def due(self, update: int, last: int) -> Due:
        """What is due at an update of a run with this last one."""
        each = (self.numbers, self.histograms, self.figures)
        if self.never:
            return NOTHING
        return Due(*(update == last or (interval > 0 and update % interval == 0) for interval in each))


def tag(name: str, quantity: str) -> str:
    """Where the loggers show a quantity of a layer, or of a parameter: under the heading of the outermost layer.

    >>> tag("hidden1", "saturated"), tag("hidden1.linear.weight", "update_to_data")
    ('within_hidden1/saturated', 'within_hidden1/update_to_data/linear.weight')
    """
    layer, _, part = name.partition(".")
    return f"within_{layer}/{quantity}/{part}".rstrip("/")


class Observer(Diagnosis):
    """A callback that examines the network at some updates; a subclass says what it finds in `observe`.

    It is handed a snapshot of update n: the forward and backward pass of minibatch n with the parameters before that
    update. The snapshot is taken once for all observers and has no side effects (promise 4). Where it raises, it is
    switched off and the run goes on, as `Diagnosis` has it.

    Args:
        every_n_updates: as `Intervals.parse` reads it.
        layers: a pattern for the names of layers, such as `hidden*` or `hidden1.linear`.
    """

    def __init__(self, every_n_updates: str = "default", layers: str = "*") -> None:
        self.intervals = Intervals.parse(every_n_updates)
        self.layers = layers
        self.update_calls = self.intervals.calls

    def due(self, update: int, last: int) -> Due:
        """What this observer wants to record at an update of a run with this last one."""
        return self.intervals.due(update, last)

    def before_update(self, snapshot: Snapshot, model: LanguageModel, recorder: Recorder) -> None:
        """Called right before an update at which something is due."""

    def observe(self, snapshot: Snapshot, model: LanguageModel, recorder: Recorder) -> None:
        """Examines the snapshot, and the model as it is right after the update, and records what is due."""

    def draw(self, model: LanguageModel, recorder: Recorder) -> None:
        """Draws what has been observed: where figures are due, and where the run ends, also if it is cut short."""

    def selected(self, items: Mapping[str, T]) -> dict[str, T]:
        """The items whose names, or whose layers' names, match the pattern."""
        patterns = (self.layers, f"{self.layers}.*")
        return {name: item for name, item in items.items() if any(fnmatch(name, pattern) for pattern in patterns)}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        callbacks: Any = trainer
        if not any(isinstance(callback, Snapshots) for callback in callbacks.callbacks):
            snapshots = Snapshots()
            snapshots.setup(trainer, pl_module, stage)
            callbacks.callbacks = [snapshots, *callbacks.callbacks]


class Snapshots(Diagnosis):
    """Takes the snapshots and hands them to the observers; the first observer of a trainer adds it.

    So an observer may override any hook of Lightning's but `setup`, and `observe` is called nevertheless.
    """

    update_calls = Calls()  # the observers declare what they need
    _label = "The snapshot, without which no observer is called,"

    def __init__(self) -> None:
        self._due: dict[Observer, Due] = {}
        self._snapshot: Snapshot | None = None
        self._undrawn: dict[Observer, Snapshot] = {}  # the last that each observer was handed since it drew

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, LanguageModel)
        if not begins_update(trainer, batch_idx):
            return
        update, last = trainer.global_step, updates_of(trainer) - 1
        due = {observer: observer.due(update, last) for observer in self._observers()}
        self._due = {observer: kinds for observer, kinds in due.items() if kinds not in (NOTHING, None)}
        if not self._due:
            return
        contexts, targets = batch
        with trainer.precision_plugin.train_step_context():
            self._snapshot = snapshot = take_snapshot(pl_module.network, contexts, targets, update)
        for observer, kinds in self._due.items():
            if not observer.selected({**snapshot.layers, **snapshot.nonlinearities, **snapshot.parameters}):
                names = ", ".join(snapshot.layers)
                raise UserError(f"no layer has such a name; there are {names}", layers=observer.layers)
            observer.before_update(snapshot, pl_module, Recorder(trainer, update, kinds))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, LanguageModel)
        if (snapshot := self._snapshot) is not None and trainer.global_step > snapshot.update:
            self._snapshot = None
            for observer, kinds in self._due.items():
                recorder = Recorder(trainer, snapshot.update, kinds)
                observer.observe(snapshot, pl_module, recorder)
                self._undrawn[observer] = snapshot
                if kinds.figures:
                    observer.draw(pl_module, recorder)
                    del self._undrawn[observer]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        for observer, snapshot in self._undrawn.items():  # the run ends before its last update
            observer.draw(pl_module, Recorder(trainer, snapshot.update))
        self._undrawn.clear()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if is_an_end(exception):
            self.on_train_end(trainer, pl_module)

    def switch_off(self) -> None:
        super().switch_off()
        for observer in self._observers():
            observer.switch_off()

    def _observers(self) -> list[Observer]:
        return [callback for callback in self._trainer.callbacks if isinstance(callback, Observer)]
