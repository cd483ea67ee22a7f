"""Records batch norm's running statistics beside the minibatch's, and chooses the statistics for validation."""

from contextlib import ExitStack
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from ngram_mlp.callbacks.quantity import Quantity, tag
from ngram_mlp.callbacks.recorder import Recorder
from ngram_mlp.data import NGramDataModule, SplitBatches
from ngram_mlp.diagnostics import batch_norm_statistics as measuring
from ngram_mlp.diagnostics.snapshot import Snapshot
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.layers import batch_norms, examples_of


class BatchNormStatistics(Quantity):
    """Records minibatch and running mean and std, gain and bias of each batch-norm layer, as means over its units.

    `drift_mean` is abs(running mean - minibatch mean) / minibatch std; `drift_std` is
    abs(running std / minibatch std - 1). The statistics of the whole corpus give 0.14 and 0.10 for a minibatch of 32.
    Running estimates, gain or bias are omitted if the layer has none.
    """

    def observe(self, snapshot: Snapshot, model: LanguageModel, recorder: Recorder) -> None:
        layers = self.selected(batch_norms(model.network))
        passed = {name: snapshot.layers[name].input for name in layers if name in snapshot.layers}
        examples = {name: examples_of(x, layers[name]) for name, x in passed.items()}
        moments = {name: (x.mean(0), x.std(0)) for name, x in examples.items()}
        drifts = measuring.drifts(model.network, moments)
        numbers: dict[str, float] = {}
        for name, (mean, std) in moments.items():
            values = {"batch_mean": mean, "batch_std": std}
            if name in drifts:
                values["running_mean"], values["running_std"] = measuring.running_mean_and_std(layers[name])
            for key, parameter in layers[name].named_parameters():
                trained = snapshot.parameters.get(f"{name}.{key}")
                values["bias" if key == "bias" else "gain"] = trained.value if trained else parameter.detach()
            if recorder.due.numbers:
                numbers |= {tag(name, f"batch_norm_{key}"): value.mean().item() for key, value in values.items()}
                if drift := drifts.get(name):
                    numbers[tag(name, "batch_norm_drift_mean")] = drift.mean
                    numbers[tag(name, "batch_norm_drift_std")] = drift.std
            if recorder.due.histograms:
                for key, value in values.items():
                    recorder.histogram(tag(name, f"batch_norm_{key}"), value)
        recorder.numbers(numbers)


class EvaluationStatistics(Callback):
    """Validates with statistics measured over the validation split (`batch`) or the training split (`calibrated`).

    Restores the running estimates before anything is saved or trained.

    Args:
        statistics: `batch`, as in cell 9 of notebook 002, or `calibrated`, precise batch norm.
    """

    def __init__(self, statistics: measuring.StatisticsName) -> None:
        self._statistics = statistics
        self._in_place = ExitStack()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        # Not in the start and end hooks of validation, where averaged weights may be swapped in and out.
        if batch_idx == 0:
            assert isinstance(pl_module, LanguageModel)
            data: NGramDataModule = trainer.datamodule  # type: ignore[attr-defined]
            split = data.splits["val" if self._statistics == "batch" else "train"]
            measured = measuring.measure(pl_module.network, SplitBatches(split), pl_module.device)
            self._in_place.enter_context(measuring.evaluating_with(pl_module.network, measured))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        batches: Any = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        if batch_idx + 1 == batches[dataloader_idx]:
            self._in_place.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._in_place.close()
