"""Where an observer's numbers, histograms, figures and texts go: loggers, TensorBoard, and the folder of the run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

if TYPE_CHECKING:  # both are slow to import, and a run without figures needs neither
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

HISTOGRAM_BINS = 50


@dataclass(frozen=True)
class Due:
    """Which kinds of recordings are due."""

    numbers: bool
    histograms: bool
    figures: bool


NOTHING = Due(numbers=False, histograms=False, figures=False)
EVERYTHING = Due(numbers=True, histograms=True, figures=True)


class Recorder:
    """Records at one update, into the trainer's loggers, TensorBoard, and the run's folder.

    Args:
        trainer: whose loggers and folder.
        update: at which place of the axis.
        due: what is due; an observer asks before it computes.
    """

    def __init__(self, trainer: Trainer, update: int, due: Due = EVERYTHING) -> None:
        self.due = due
        self.update = update
        self._trainer = trainer

    def numbers(self, values: Mapping[str, float]) -> None:
        """Logs the finite ones of numbers by tag."""
        finite = {tag: value for tag, value in values.items() if math.isfinite(value)}
        for logger in self._trainer.loggers:
            logger.log_metrics(finite, step=self.update)

    def histogram(self, tag: str, values: Tensor) -> None:
        """Logs a histogram; without values that are not finite, which have no place in one."""
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

            self._folder.joinpath("figures").mkdir(parents=True, exist_ok=True)
            png, height, width = draw(figure)
            self._folder.joinpath("figures", f"{name}.png").write_bytes(png)
            # `add_image` takes pixels, and would compress them once more.
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
            for writer in self.writers:
                summary = Summary(value=[Summary.Value(tag=f"figures/{name}", image=image)])
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

    @property
    def is_first_process(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self._trainer.is_global_zero

    @property
    def writers(self) -> "list[SummaryWriter]":
        """TensorBoard's writers, on the first process; none elsewhere."""
        if not self.is_first_process:
            return []
        return [logger.experiment for logger in self._trainer.loggers if isinstance(logger, TensorBoardLogger)]

    @property
    def _folder(self) -> Path:
        # Not `trainer.log_dir`, which all processes have to ask for at the same time.
        logger = next((x for x in self._trainer.loggers if isinstance(x, TensorBoardLogger)), None)
        return Path(logger.log_dir if logger else self._trainer.default_root_dir)
