"""Records results in the trainer's loggers and the run's folder."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ngram_mlp.callbacks.figures import Drawing, Figures
from ngram_mlp.callbacks.losses import Losses
from ngram_mlp.callbacks.media_loggers import TensorBoard, media_loggers
from runlab import Picture, updates_of

if TYPE_CHECKING:  # both are slow to import, and a run without figures needs neither
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class Due:
    """The kinds of recordings that are due."""

    numbers: bool = True
    histograms: bool = True
    figures: bool = True


C = TypeVar("C", bound=Callback)
EVERYTHING = Due()
NOTHING = Due(numbers=False, histograms=False, figures=False)


def among(trainer: Any, kind: type[C]) -> C:
    """Returns the trainer's callback of a kind; raises a ValueError if there is none."""
    for callback in trainer.callbacks:
        if isinstance(callback, kind):
            return callback
    raise ValueError(f"the trainer needs the callback {kind.__name__}")


def begins_update(trainer: Trainer, batch_idx: int) -> bool:
    """Returns whether a minibatch is the first of its update."""
    return batch_idx % trainer.accumulate_grad_batches == 0


class Recorder:
    """Records what is due at one update, in the trainer's loggers and the run's folder.

    Every logger gets the numbers; TensorBoard, Weights & Biases and (except histograms) MLflow also get the rest.
    """

    def __init__(self, trainer: Any, update: int, due: Due = EVERYTHING) -> None:
        self.due = due
        self.update = update
        self.is_first_process = trainer.is_global_zero  # the one that prints and writes
        self.trainer = trainer
        self._media = media_loggers(trainer.loggers) if self.is_first_process else []

    @property
    def writers(self) -> "list[SummaryWriter]":
        """TensorBoard's writers, for features that no other logger has; empty except in the first process."""
        return [logger.logger.experiment for logger in self._media if isinstance(logger, TensorBoard)]

    @property
    def updates(self) -> int:
        """The number of updates of the run, as `updates_of` counts them."""
        return updates_of(self.trainer)

    @property
    def _folder(self) -> Path:
        """The folder of `losses.npy`, else of TensorBoard's files."""
        folders = [one.file.parent for one in self.trainer.callbacks if isinstance(one, Losses) and one.file]
        # Not `trainer.log_dir`, which all processes must read at the same time.
        folders += [logger.logger.log_dir for logger in self._media if isinstance(logger, TensorBoard)]
        return Path(*folders[:1] or [self.trainer.default_root_dir])

    def numbers(self, values: Mapping[str, float]) -> None:
        """Logs the finite numbers by tag."""
        finite = {tag: value for tag, value in values.items() if math.isfinite(value)}
        for logger in self.trainer.loggers if finite else ():
            logger.log_metrics(finite, step=self.update)

    def histogram(self, tag: str, values: Tensor) -> None:
        """Shows a histogram of the finite values."""
        x = values.detach().float().cpu().flatten().numpy()
        x = x[np.isfinite(x)]
        for logger in self._media if len(x) else ():
            logger.histogram(tag, x, self.update)

    def figure(self, name: str, function: "Callable[..., Figure]", *args: Any) -> None:
        """Shows the figure that a function returns for these arguments, and saves it as `figures/NAME.png`.

        The function gets NumPy arrays for tensors. The callback `Figures` may call it in another process.
        """
        if self.is_first_process:
            args = tree_map_only(Tensor, lambda tensor: tensor.detach().float().cpu().numpy(), args)
            show, run = partial(self._show, name), "/".join(self._folder.parts[-2:])
            drawing = Drawing(name, self.update, run, function, args, show)
            if not any(one.takes(drawing) for one in self.trainer.callbacks if isinstance(one, Figures)):
                drawing.here()

    def _show(self, name: str, picture: Picture) -> None:
        png, height, width = picture
        self.file(f"figures/{name}.png", png)
        for logger in self._media:
            logger.figure(name, png, (height, width), self.update)

    def file(self, name: str, content: str | bytes) -> None:
        """Writes a file in the run's folder."""
        if self.is_first_process:
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())

    def text(self, tag: str, markdown: str) -> None:
        """Shows a text."""
        for logger in self._media:
            logger.text(tag, markdown, self.update)
