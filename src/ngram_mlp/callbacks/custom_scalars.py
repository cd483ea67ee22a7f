"""TensorBoard's page of custom scalars."""

from pytorch_lightning import Callback, LightningModule, Trainer

from ngram_mlp.callbacks.findings import Findings

__all__ = ["CustomScalars"]

LAYOUT = {
    "losses": {"train and validation": ["Multiline", ["train/loss", "val/loss"]]},
    "layers": {
        "saturated fraction": ["Multiline", ["saturated/.*"]],
        "dead units": ["Multiline", ["dead_units/.*"]],
        "deviation of the activations": ["Multiline", ["^activation_std/.*"]],
        "deviation of the gradients": ["Multiline", ["^gradient_std/.*"]],
    },
    "weights": {"log10 of update:data": ["Multiline", ["update_to_data/.*"]]},
}


class CustomScalars(Callback):
    """Shows the losses together, and each statistic of all layers together."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for writer in Findings(trainer, trainer.global_step).writers:
            writer.add_custom_scalars(LAYOUT)
