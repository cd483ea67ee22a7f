"""Groups scalars into charts on TensorBoard's page of custom scalars."""

from pytorch_lightning import Callback, LightningModule, Trainer

from ngram_mlp.callbacks.harmless import harmless
from ngram_mlp.callbacks.recorder import Recorder
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


class CustomScalars(Callback):
    """Charts the losses together, and each statistic over all layers."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with harmless(type(self).__name__, trainer):
            for writer in Recorder(trainer, trainer.global_step).writers:
                writer.add_custom_scalars(LAYOUT)
