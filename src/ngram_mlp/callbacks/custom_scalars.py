"""What TensorBoard's page of custom scalars shows together."""

from pytorch_lightning import LightningModule, Trainer

from ngram_mlp.callbacks.diagnosis import Diagnosis
from ngram_mlp.callbacks.recorder import Recorder

LAYOUT = {
    "losses": {"train and validation": ["Multiline", ["train/loss", "val/loss"]]},
    "layers": {
        "saturated fraction": ["Multiline", ["saturated/.*"]],
        "dead units": ["Multiline", ["dead_units/.*"]],
        "std of the activations": ["Multiline", ["^activation_std/.*"]],
        "std of the gradients": ["Multiline", ["^gradient_std/.*"]],
    },
    "weights": {"log10 of update:data": ["Multiline", ["update_to_data/.*"]]},
}


class CustomScalars(Diagnosis):
    """Shows the losses in one chart, and each statistic of all layers in one."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for writer in Recorder(trainer, trainer.global_step).writers:
            writer.add_custom_scalars(LAYOUT)
