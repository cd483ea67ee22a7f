"""Measures the outcome of a run: its time, and how well the trained network predicts each split."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from ngram_mlp.callbacks.recorder import Recorder
from ngram_mlp.data import NGramDataModule
from ngram_mlp.diagnostics.batch_norm_statistics import StatisticsName, evaluate_splits
from ngram_mlp.models import LanguageModel

# Of parameters and examples; a split with more would take over some 10 s, and is not evaluated whole.
MOST_PRODUCTS = 2 * 10**11


class Outcome(Callback):
    """Evaluates the splits with the final weights when training has ended, and logs the losses.

    A split that would take long, as with a vocabulary of thousands of words, is evaluated on evenly spaced examples.

    Args:
        statistics: what batch norm evaluates with.
    """

    def __init__(self, statistics: StatisticsName = "running") -> None:
        self._statistics = statistics
        self._started = 0.0
        self._first = 0
        self.seconds = 0.0  # from the start of the fit to the end of training
        self.updates = 0  # in that time
        self.metrics: dict[str, dict[str, float]] = {}  # loss, perplexity, accuracy by split; first process only

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = time.perf_counter() - self._started
        self.updates = trainer.global_step - self._first

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = self.seconds or time.perf_counter() - self._started  # if there was nothing to train
        # Not earlier: averaged weights replace the last ones at the end of training.
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.is_global_zero and isinstance(data, NGramDataModule):
            assert isinstance(pl_module, LanguageModel)
            most = MOST_PRODUCTS // sum(parameter.numel() for parameter in pl_module.parameters()) + 1
            some = {split: ngrams.some(most) for split, ngrams in data.splits.items()}
            self.metrics = evaluate_splits(pl_module.network, some, self._statistics)
            for split, ngrams in some.items():
                if ngrams is not data.splits[split]:
                    self.metrics[split]["examples"] = len(ngrams)
            losses = {f"when_trained/{split}_loss": values["loss"] for split, values in self.metrics.items()}
            Recorder(trainer, trainer.global_step).numbers(losses)
