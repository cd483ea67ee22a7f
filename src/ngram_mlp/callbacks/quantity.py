"""Defines what is measured of the network during training, and at which updates."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, TypeVar

from multistep import Calls
from ngram_mlp.callbacks.recorder import NOTHING, Due, Recorder
from ngram_mlp.diagnostics.snapshot import Snapshot
from ngram_mlp.models import LanguageModel
from runlab import UserError

PRESETS = {"default": "5000/50000/0", "often": "100/1000/10000", "each": "1/10/100"}
T = TypeVar("T")


@dataclass(frozen=True)
class Intervals:
    """The updates between two recordings of numbers, of histograms (and sampled names), and of figures.

    All are recorded at the last update, whatever the interval; 0 means only there, `never` not even there.
    """

    numbers: int
    histograms: int
    figures: int
    never: bool = False

    @classmethod
    def parse(cls, text: str) -> "Intervals":
        """Parses `off`, `default` (5000/50000/0), `often` (100/1000/10000), `each` (1/10/100), or three numbers."""
        if text == "off":
            return cls(0, 0, 0, never=True)
        match = re.fullmatch(r"(\d+)/(\d+)/(\d+)", PRESETS.get(text, text))
        if match is None:
            own = "intervals for numbers, histograms and figures, such as 1000/10000/0 (0: only at the last update)"
            raise UserError(f"give off, {', '.join(PRESETS)}, or {own}", every_n_updates=text)
        return cls(int(match[1]), int(match[2]), int(match[3]))

    @property
    def calls(self) -> Calls:
        """The updates around which the trainer must call the hooks."""
        each = tuple(interval for interval in (self.numbers, self.histograms, self.figures) if interval)
        return Calls(around=None if self.never else each)

    def due(self, update: int, last: int) -> Due:
        """Returns what is due at an update of a run with this last update."""
        each = (self.numbers, self.histograms, self.figures)
        if self.never:
            return NOTHING
        return Due(*(update == last or (interval > 0 and update % interval == 0) for interval in each))


def tag(name: str, statistic: str) -> str:
    """Returns the tag of a quantity of a layer or parameter, under the heading of the outermost layer.

    >>> tag("hidden1", "saturated"), tag("hidden1.linear.weight", "update_to_data")
    ('within_hidden1/saturated', 'within_hidden1/update_to_data/linear.weight')
    """
    layer, _, part = name.partition(".")
    return f"within_{layer}/{statistic}/{part}".rstrip("/")


class Quantity:
    """Something that `Inspect` measures at some updates; a subclass implements `observe`.

    It gets a snapshot of update n: the forward and backward pass of minibatch n with the parameters before that update.
    The snapshot is taken once for all quantities and has no side effects (promise 4).

    Args:
        every_n_updates: as `Intervals.parse` reads it.
        layers: a pattern for the names of layers, such as `hidden*` or `hidden1.linear`.
    """

    def __init__(self, every_n_updates: str = "default", layers: str = "*") -> None:
        self.intervals = Intervals.parse(every_n_updates)
        self.layers = layers
        self.reset()

    def reset(self) -> None:
        """Forgets what was observed, before a run begins or goes on from a checkpoint."""

    def observe(self, snapshot: Snapshot, model: LanguageModel, recorder: Recorder) -> None:
        """Examines the snapshot, and the model right after the update, and records what is due."""

    def draw(self, model: LanguageModel, recorder: Recorder) -> None:
        """Draws what was observed, when figures are due and when the run ends, even if it is cut short."""

    def conclude(self, model: LanguageModel, recorder: Recorder) -> None:
        """Runs after a run that was not cut short, with the weights that it leaves."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps, so that a resumed run draws the same figures."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what a checkpoint kept."""

    def selected(self, items: Mapping[str, T]) -> dict[str, T]:
        """Returns the items whose name, or whose layer's name, matches the pattern."""
        # With `direct` an MLP's layers stand in `sum`.
        patterns = [f"{before}{self.layers}{after}" for before in ("", "sum.") for after in ("", ".*")]
        return {name: item for name, item in items.items() if any(fnmatch(name, pattern) for pattern in patterns)}
