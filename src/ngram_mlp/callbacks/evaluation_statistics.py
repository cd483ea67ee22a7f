"""Validation during training with other statistics than batch norm's running estimates."""

from contextlib import ExitStack

from pytorch_lightning import Callback, LightningModule, Trainer

from ngram_mlp.calibration import StatisticsName, evaluating_with, measure
from ngram_mlp.data import Chunks, NGramDataModule
from ngram_mlp.models import LanguageModel

__all__ = ["EvaluationStatistics"]


class EvaluationStatistics(Callback):
    """Validates with the statistics of the validation split itself (`batch`) or of the training split (`calibrated`).

    The running estimates are back before anybody saves or trains on.

    Args:
        statistics: `batch` as in cell 9 of notebook 002, or `calibrated`.
    """

    def __init__(self, statistics: StatisticsName) -> None:
        self._statistics = statistics
        self._in_place = ExitStack()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        data: NGramDataModule = trainer.datamodule  # type: ignore[attr-defined]
        split = data.splits["val" if self._statistics == "batch" else "train"]
        measured = measure(pl_module.network, Chunks(split), pl_module.device)
        self._in_place.enter_context(evaluating_with(pl_module.network, measured))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._in_place.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._in_place.close()
