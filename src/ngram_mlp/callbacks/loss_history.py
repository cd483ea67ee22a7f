"""The curve of the training loss."""

from pytorch_lightning import Callback, LightningModule, Trainer

from ngram_mlp.callbacks.recorder import Recorder
from ngram_mlp.models import LanguageModel


class LossHistory(Callback):
    """Draws the loss of every update at the end; the model keeps them, and they travel in its checkpoints."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        if len(pl_module.losses):
            from ngram_mlp.diagnostics.figures import loss_figure

            Recorder(trainer, trainer.global_step).figure("loss", loss_figure(pl_module.losses.all.numpy()))
