"""What TensorBoard's page of custom scalars shows together."""

import re
from collections.abc import Iterable, Sequence

from ngram_mlp.callbacks.quantity import Quantity, tag
from ngram_mlp.callbacks.recorder import EVERYTHING, NOTHING, Due, Recorder
from ngram_mlp.diagnostics.snapshot import Snapshot
from ngram_mlp.diagnostics.statistics import is_nonlinearity
from ngram_mlp.models import LanguageModel

LINES = 8  # as many can be told apart in a chart
Charts = dict[str, list[str | list[str]]]


class CustomScalars(Quantity):
    """Shows the losses in one chart, and each statistic of the layers together, in charts of at most eight lines.

    Args:
        layers: a pattern for the names of layers and weights.
    """

    def __init__(self, layers: str = "*") -> None:
        super().__init__("off", layers)
        self._is_shown = False

    def due(self, update: int, last: int) -> Due:
        return NOTHING if self._is_shown else EVERYTHING

    def before_update(self, snapshot: Snapshot, model: LanguageModel, recorder: Recorder) -> None:
        self._is_shown = True
        hidden = list(self.selected(snapshot.nonlinearities))
        outputs = [name for name, layer in self.selected(snapshot.layers).items() if is_nonlinearity(layer.module)]
        layout = {
            "losses": {"train and validation": ["Multiline", ["train/loss", "val/loss"]]},
            "layers": {
                **_charts("saturated fraction", hidden, "saturated"),
                **_charts("dead units", hidden, "dead_units"),
                **_charts("std of the activations", hidden, "activation_std"),
                **_charts("std of the gradients", outputs, "gradient_std"),
            },
            "weights": _charts("log10 of update:data", list(self.selected(snapshot.weights)), "update_to_data"),
        }
        for writer in recorder.writers:
            writer.add_custom_scalars({title: charts for title, charts in layout.items() if charts})


def _charts(title: str, names: Sequence[str], quantity: str) -> Charts:
    """Charts of a quantity of the layers or weights with these names, equally many in each."""
    count = -(-len(names) // LINES)
    parts = [names[len(names) * n // count : len(names) * (n + 1) // count] for n in range(count)]
    return {
        title if count == 1 else f"{title}, {part[0]} to {part[-1]}": [
            "Multiline",
            _exactly(tag(n, quantity) for n in part),
        ]
        for part in parts
    }


def _exactly(tags: Iterable[str]) -> list[str]:
    return [f"^{re.escape(tag)}$" for tag in tags]
