"""Shows figures, histograms and texts in the loggers that can show more than numbers.

wandb and mlflow are not dependencies of this package: only a run that logs to them imports them.
"""

import html
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

HISTOGRAM_BINS = 50
Array = np.ndarray[Any, Any]


class MediaLogger(ABC):
    """Shows more than numbers in a Lightning logger."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    @abstractmethod
    def figure(self, name: str, png: bytes, size: tuple[int, int], update: int) -> None:
        """Shows a figure of this size (height, width)."""

    @abstractmethod
    def histogram(self, tag: str, x: Array, update: int) -> None:
        """Shows the distribution of one or more finite numbers."""

    @abstractmethod
    def text(self, tag: str, markdown: str, update: int) -> None:
        """Shows a text."""


class TensorBoard(MediaLogger):
    """Shows images, histograms and texts, each on a page of its own."""

    def figure(self, name: str, png: bytes, size: tuple[int, int], update: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        # `add_image` takes pixels, and would compress them again.
        image = Summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=png)
        summary = Summary(value=[Summary.Value(tag=f"views/{name}", image=image)])
        self.logger.experiment._get_file_writer().add_summary(summary, update)

    def histogram(self, tag: str, x: Array, update: int) -> None:
        counts, edges = np.histogram(x, HISTOGRAM_BINS)
        sums = float(x.sum()), float((x**2).sum())
        self.logger.experiment.add_histogram_raw(tag, x.min(), x.max(), len(x), *sums, edges[1:], counts, update)

    def text(self, tag: str, markdown: str, update: int) -> None:
        self.logger.experiment.add_text(tag, markdown, update)


class WeightsAndBiases(MediaLogger):
    """Shows images, histograms and texts over Lightning's axis, `trainer/global_step`; W&B's own step counts calls."""

    def figure(self, name: str, png: bytes, size: tuple[int, int], update: int) -> None:
        import wandb

        self.logger.log_metrics({f"views/{name}": wandb.Image(_pixels(png))}, step=update)

    def histogram(self, tag: str, x: Array, update: int) -> None:
        import wandb

        self.logger.log_metrics({tag: wandb.Histogram(np_histogram=np.histogram(x, HISTOGRAM_BINS))}, step=update)

    def text(self, tag: str, markdown: str, update: int) -> None:
        import wandb

        self.logger.log_metrics({tag: wandb.Html(f"<pre>{html.escape(markdown)}</pre>")}, step=update)


class MLflow(MediaLogger):
    """Shows images over steps, and texts as files among the run's artifacts; MLflow has no histograms."""

    def figure(self, name: str, png: bytes, size: tuple[int, int], update: int) -> None:
        self.logger.experiment.log_image(self.logger.run_id, _pixels(png), key=f"views/{name}", step=update)

    def histogram(self, tag: str, x: Array, update: int) -> None:
        """Does nothing."""

    def text(self, tag: str, markdown: str, update: int) -> None:
        self.logger.experiment.log_text(self.logger.run_id, markdown, f"texts/{tag}/{update}.md")


KINDS: dict[type[Logger], type[MediaLogger]] = {
    TensorBoardLogger: TensorBoard,
    WandbLogger: WeightsAndBiases,
    MLFlowLogger: MLflow,
}


def media_loggers(loggers: Iterable[Logger]) -> list[MediaLogger]:
    """Returns a MediaLogger for each logger that shows more than numbers, including users' subclasses."""
    return [shown(logger) for logger in loggers for kind, shown in KINDS.items() if isinstance(logger, kind)]


def _pixels(png: bytes) -> Any:
    """Returns the image in the form that wandb and mlflow take."""
    from PIL import Image

    return Image.open(io.BytesIO(png))
