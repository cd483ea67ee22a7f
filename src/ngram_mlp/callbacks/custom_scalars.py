"""Groups scalars into charts on TensorBoard's page of custom scalars."""

from ngram_mlp.callbacks.quantity import Quantity
from ngram_mlp.callbacks.recorder import EVERYTHING, NOTHING, Due, Recorder
from ngram_mlp.diagnostics.snapshot import Snapshot
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.metrics import TRAIN_LOSS, VAL_LOSS

# The tag patterns are the same for every network: TensorBoard lists the layouts of all runs, and equal ones only once.
LAYOUT = {
    "losses": {"train and validation": ["Multiline", [f"^{TRAIN_LOSS}$", f"^{VAL_LOSS}$"]]},
    "layers": {
        "saturated fraction": ["Multiline", ["^within_[^/]+/saturated"]],
        "dead units": ["Multiline", ["^within_[^/]+/dead_units"]],
        "std of the activations": ["Multiline", ["^within_[^/]+/activation_std"]],
        "std of the gradients": ["Multiline", ["^within_[^/]+/gradient_std(/activation)?$"]],
    },
    "weights": {"log10 of update:data": ["Multiline", ["^within_[^/]+/update_to_data"]]},
}


class CustomScalars(Quantity):
    """Charts the losses together, and each statistic over all layers."""

    def __init__(self) -> None:
        super().__init__("off")
        self._is_shown = False

    def due(self, update: int, last: int) -> Due:
        return NOTHING if self._is_shown else EVERYTHING

    def before_update(self, snapshot: Snapshot, model: LanguageModel, recorder: Recorder) -> None:
        self._is_shown = True
        for writer in recorder.writers:
            writer.add_custom_scalars(LAYOUT)
