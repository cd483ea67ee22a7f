"""What the callbacks that look inside the network share: when they look, and where their findings go."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from ngram_mlp.errors import UserError
from ngram_mlp.looks import Look, look_at
from ngram_mlp.models import LanguageModel

if TYPE_CHECKING:  # both take their time to import, and a run without figures needs neither
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Cadence", "Findings", "Observer", "current_look"]

T = TypeVar("T")
PRESETS = {"default": "5000/50000/0", "often": "100/1000/10000", "each": "1/10/100"}
HISTOGRAM_BINS = 50
_looks: WeakKeyDictionary[Trainer, Look] = WeakKeyDictionary()


@dataclass(frozen=True)
class Due:
    """Which kinds of findings are due."""

    numbers: bool
    histograms: bool
    figures: bool


@dataclass(frozen=True)
class Cadence:
    """The updates between two looks at cheap numbers, at histograms (and sampled names), and at figures.

    Whatever the interval, everything is due at the last update; 0 means only there, `never` not even there.
    """

    numbers: int
    histograms: int
    figures: int
    never: bool = False

    @classmethod
    def parse(cls, text: str) -> "Cadence":
        """`off`, `default` (5000/50000/0), `often` (100/1000/10000), `each` (1/10/100), or three such numbers.

        Raises:
            UserError: anything else.
        """
        if text == "off":
            return cls(0, 0, 0, never=True)
        if re.fullmatch(r"\d+/\d+/\d+", numbers := PRESETS.get(text, text)):
            each, histograms, figures = map(int, numbers.split("/"))
            return cls(each, histograms, figures)
        raise UserError(
            f"--observe.cadence {text}: give off, {', '.join(PRESETS)}, or the updates between two looks at numbers, "
            "histograms and figures, such as 1000/10000/0 (0: only at the last update)"
        )

    @property
    def intervals(self) -> list[int]:
        """The intervals at whose multiples something is due."""
        return [interval for interval in (self.numbers, self.histograms, self.figures) if interval]

    def due(self, update: int, last: int) -> Due:
        """What is due at an update of a run with this last one."""
        return Due(
            *(
                not self.never and (update == last or bool(interval and update % interval == 0))
                for interval in (self.numbers, self.histograms, self.figures)
            )
        )


class Findings:
    """Where the findings of a look go: the trainer's loggers, TensorBoard, and the run's folder `figures`."""

    def __init__(self, trainer: Trainer, update: int, due: Due = Due(True, True, True)) -> None:
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
        if self._trainer.is_global_zero:
            from tensorboard.compat.proto.summary_pb2 import Summary

            from ngram_mlp.figures import draw

            self._folder.joinpath("figures").mkdir(parents=True, exist_ok=True)
            png, height, width = draw(figure)
            self._folder.joinpath("figures", f"{name}.png").write_bytes(png)
            # `add_image` would take the pixels, and compress them once more.
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
            for writer in self.writers:
                summary = Summary(value=[Summary.Value(tag=f"figures/{name}", image=image)])
                writer._get_file_writer().add_summary(summary, self.update)  # type: ignore[no-untyped-call]

    def file(self, name: str, content: str) -> None:
        """Writes a text file into the run's folder."""
        if self._trainer.is_global_zero:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.joinpath(name).write_text(content + "\n", encoding="utf-8")

    def text(self, tag: str, markdown: str) -> None:
        """Shows a text in TensorBoard."""
        for writer in self.writers:
            writer.add_text(tag, markdown, self.update)

    @property
    def writers(self) -> "list[SummaryWriter]":
        """TensorBoard's writers, on the first process; none elsewhere."""
        if not self._trainer.is_global_zero:
            return []
        return [logger.experiment for logger in self._trainer.loggers if isinstance(logger, TensorBoardLogger)]

    @property
    def _folder(self) -> Path:
        # Not `trainer.log_dir`, for which all processes have to ask at once.
        logger = next((x for x in self._trainer.loggers if isinstance(x, TensorBoardLogger)), None)
        return Path(logger.log_dir if logger else self._trainer.default_root_dir)


class Observer(Callback):
    """A callback that looks at the network at some updates; a subclass says what it finds in `observe`.

    A look at update n is the forward and backward pass of minibatch n with the parameters before that update. It is
    taken once for all observers, and leaves no trace (contract 4). The block stream lets the updates that are looked
    at be blocks of their own, so that the network is seen right after the update, too.

    Args:
        cadence: as `Cadence.parse` reads it.
        layers: a pattern for the names of layers, such as `hidden*` or `hidden1.linear`.
    """

    def __init__(self, cadence: str = "default", layers: str = "*") -> None:
        self.cadence = Cadence.parse(cadence)
        self.layers = layers
        # What the block stream asks for: the intervals at whose multiples, and at the end, this callback looks.
        self.look_every = None if self.cadence.never else self.cadence.intervals
        self._look: Look | None = None

    def observe(self, look: Look, model: LanguageModel, findings: Findings) -> None:
        """Examines a look, and the model as it is right after the update, and tells what is due."""
        raise NotImplementedError

    def selected(self, items: Mapping[str, T]) -> dict[str, T]:
        """The items whose names, or whose layers' names, match the pattern."""
        patterns = (self.layers, f"{self.layers}.*")
        return {name: item for name, item in items.items() if any(fnmatch(name, pattern) for pattern in patterns)}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._due = self.cadence.due(trainer.global_step, trainer.max_steps - 1)
        if self._due != Due(False, False, False):
            self._look = look = current_look(trainer, pl_module, batch)
            if not self.selected({**look.layers, **look.nonlinearities, **look.parameters}):
                raise UserError(
                    f"--observe.layers {self.layers}: no layer has such a name; there are {', '.join(look.layers)}"
                )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._look is not None:
            assert isinstance(pl_module, LanguageModel)
            look, self._look = self._look, None
            self.observe(look, pl_module, Findings(trainer, look.update, self._due))


def current_look(trainer: Trainer, pl_module: LightningModule, block: tuple[Tensor, Tensor]) -> Look:
    """The look at the first update of a block that is about to be trained on; taken once for all who ask."""
    look = _looks.get(trainer)
    if look is None or look.update != trainer.global_step:
        assert isinstance(pl_module, LanguageModel)
        with trainer.precision_plugin.train_step_context():
            look = look_at(pl_module.network, block[0][0], block[1][0], trainer.global_step)
        _looks[trainer] = look
    return look
