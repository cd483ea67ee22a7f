"""TensorBoard's pages of custom scalars and of hyperparameters."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

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


class CustomScalars(Callback):
    """Shows the losses in one chart, and each statistic of all layers in one."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for writer in Recorder(trainer, trainer.global_step).writers:
            writer.add_custom_scalars(LAYOUT)


class Hyperparameters(Callback):
    """Writes the run's hyperparameters with the validation loss as their metric, `hp_metric`.

    Lightning by itself writes a metric of -1 before training. Here they appear with the first validation, and the
    metric follows every further one.

    Args:
        values: what the run was started with, nested as in its configuration.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self._written = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = trainer.callback_metrics.get("val/loss")
        if trainer.sanity_checking or loss is None:
            return
        metric = {"hp_metric": float(loss)}
        for logger in trainer.loggers:
            if self._written or not isinstance(logger, TensorBoardLogger):
                logger.log_metrics(metric, step=trainer.global_step)
            else:
                logger.log_hyperparams(self._values, metric, step=trainer.global_step)
        self._written = True

    def state_dict(self) -> dict[str, Any]:
        return {"written": self._written}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._written = bool(state_dict["written"])
