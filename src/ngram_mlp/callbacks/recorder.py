"""Where things go in TensorBoard, and in the other loggers and the run's folder."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

if TYPE_CHECKING:  # both are slow to import, and a run without figures needs neither
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

HISTOGRAM_BINS = 50
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


@dataclass(frozen=True)
class Due:
    """Which kinds of recordings are due."""

    numbers: bool = True
    histograms: bool = True
    figures: bool = True


EVERYTHING = Due()
NOTHING = Due(numbers=False, histograms=False, figures=False)


class Recorder:
    """Records at one update into the trainer's loggers, TensorBoard and the run's folder what an observer finds due."""

    def __init__(self, trainer: Trainer, update: int, due: Due = EVERYTHING) -> None:
        self.due = due
        self.update = update
        self.is_first_process = trainer.is_global_zero  # the one that prints and writes
        self._trainer = trainer
        self._boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]

    @property
    def writers(self) -> "list[SummaryWriter]":
        """TensorBoard's writers; none on any process but the first."""
        return [board.experiment for board in self._boards if self.is_first_process]

    @property
    def _folder(self) -> Path:
        # Not `trainer.log_dir`, which all processes have to ask for at the same time.
        return Path(self._boards[0].log_dir if self._boards else self._trainer.default_root_dir)

    def numbers(self, values: Mapping[str, float]) -> None:
        """Logs the finite numbers, by tag."""
        finite = {tag: value for tag, value in values.items() if math.isfinite(value)}
        for logger in self._trainer.loggers:
            logger.log_metrics(finite, step=self.update)

    def histogram(self, tag: str, values: Tensor) -> None:
        """Logs a histogram of the finite values."""
        x = values.detach().float().cpu().flatten().numpy()
        x = x[np.isfinite(x)]
        if len(x):
            counts, edges = np.histogram(x, HISTOGRAM_BINS)
            sums = float(x.sum()), float((x**2).sum())
            for writer in self.writers:
                writer.add_histogram_raw(tag, x.min(), x.max(), len(x), *sums, edges[1:], counts, self.update)

    def figure(self, name: str, figure: "Figure") -> None:
        """Draws a figure into TensorBoard and as NAME.png into the folder `figures` of the run."""
        if self.is_first_process:
            from tensorboard.compat.proto.summary_pb2 import Summary

            from ngram_mlp.diagnostics.figures import draw

            png, height, width = draw(figure)
            self._folder.joinpath("figures").mkdir(parents=True, exist_ok=True)
            self._folder.joinpath("figures", f"{name}.png").write_bytes(png)
            # `add_image` takes pixels, and would compress them once more.
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
            summary = Summary(value=[Summary.Value(tag=f"figures/{name}", image=image)])
            for writer in self.writers:
                writer._get_file_writer().add_summary(summary, self.update)  # type: ignore[no-untyped-call]

    def file(self, name: str, content: str) -> None:
        """Writes a text file into the run's folder."""
        if self.is_first_process:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.joinpath(name).write_text(content + "\n", encoding="utf-8")

    def text(self, tag: str, markdown: str) -> None:
        """Shows a text in TensorBoard."""
        for writer in self.writers:
            writer.add_text(tag, markdown, self.update)


class CustomScalars(Callback):
    """Shows the losses in one chart, and each statistic of all layers in one."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for writer in Recorder(trainer, trainer.global_step).writers:
            writer.add_custom_scalars(LAYOUT)


class Hyperparameters(Callback):
    """Writes the run's hyperparameters at its first validation; each validation loss is their metric, `hp_metric`.

    Lightning by itself writes a metric of -1 before training.

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
