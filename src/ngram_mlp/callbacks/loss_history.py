"""Draws the losses of a run as a curve."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from multistep import Calls
from ngram_mlp.callbacks.harmless import harmless, is_an_end
from ngram_mlp.callbacks.losses import Losses
from ngram_mlp.callbacks.recorder import Recorder, among
from ngram_mlp.diagnostics.figures import loss_figure
from ngram_mlp.models.metrics import VAL_LOSS

DROP = 0.7  # a learning rate below this fraction of the previous one is marked


class LossHistory(Callback):
    """Draws the loss of every update, the validation loss, and drops in the learning rate; needs `Losses`."""

    update_calls = Calls()  # requests no calls; records at the updates where it is called

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._losses = among(trainer, Losses)
        self._validation: list[tuple[int, float]] = []
        self._drops: list[int] = []
        self._rate, self._is_steady = 0.0, True
        self._drawn_at = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        if self._is_steady and rate < DROP * self._rate:
            self._drops.append(trainer.global_step)
        self._is_steady = rate == self._rate or not self._rate  # a gradual schedule never is
        self._rate = rate

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if VAL_LOSS in trainer.callback_metrics and not trainer.sanity_checking:
            self._validation.append((trainer.global_step, float(trainer.callback_metrics[VAL_LOSS])))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(self._losses) and self._drawn_at != trainer.global_step:
            self._drawn_at = trainer.global_step
            drops = self._drops if len(self._drops) <= 5 else []
            with harmless("LossHistory", trainer):
                recorder = Recorder(trainer, trainer.global_step)
                recorder.figure("loss", loss_figure, self._losses.all, self._validation, drops)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if is_an_end(exception):
            self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {
            "validation": self._validation,
            "drops": self._drops,
            "rate": self._rate,
            "is_steady": self._is_steady,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validation = [tuple(point) for point in state_dict["validation"]]
        self._drops, self._rate = state_dict["drops"], state_dict["rate"]
        self._is_steady = state_dict.get("is_steady", True)
