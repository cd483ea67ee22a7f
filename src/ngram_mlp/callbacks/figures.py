"""Draws figures while the run continues."""

import copy
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from multistep import Calls
from ngram_mlp.callbacks.harmless import harmless, is_an_end
from runlab import Artist, Picture, draw

MOST = 8  # figures that wait; more would delay the end of an interrupted run


@dataclass(frozen=True)
class Drawing:
    """A figure to draw: what a function returns for some arguments."""

    name: str
    update: int
    run: str  # written in a corner
    function: Callable[..., Any]  # returns a matplotlib Figure
    args: tuple[Any, ...]
    show: Callable[[Picture], None]

    def here(self) -> None:
        """Draws and shows the figure in this process."""
        self.show(draw(self.function, *self.args, name=self.run))


class Figures(Callback):
    """Has another process draw figures, and shows each when it is finished: before a checkpoint, or at the end.

    It comes after the callbacks that draw. Without it, or if matplotlib is imported already, they draw by themselves. A
    figure that fails in the other process is drawn in this one; if that fails, too, it is switched off.
    """

    update_calls = Calls()  # requests no calls

    def __init__(self) -> None:
        self._artist: Artist | None = None
        self._asked: list[tuple[Drawing, Future[Picture]]] = []
        self._failed: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        self._failed.clear()

    # Not before: the initial checks compute with all cores, and take three times as long if one is busy.
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and "matplotlib" not in sys.modules:
            with suppress(Exception):  # such as too many processes
                self._artist = Artist()

    def takes(self, drawing: Drawing) -> bool:
        """Returns whether it draws a figure, or has switched it off."""
        while self._asked and (len(self._asked) >= MOST or self._asked[0][1].done()):
            self._show_next()
        if drawing.name in self._failed:
            return True
        if self._artist is not None:
            with suppress(Exception):  # of pickle, such as for a local function
                drawing = replace(drawing, args=copy.deepcopy(drawing.args))  # as they are now
                picture = self._artist.draw(drawing.function, *drawing.args, name=drawing.run)
                self._asked.append((drawing, picture))
                return True
        return False

    def state_dict(self) -> dict[str, Any]:
        """Shows what is asked for, because a run that resumes from this state would not draw it again."""
        self._show_all()
        return {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show_all()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show_all()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        try:
            while self._asked and (is_an_end(exception) or self._asked[0][1].done()):
                self._show_next()
        finally:  # a second signal does not wait
            self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._asked.clear()
        if self._artist:
            self._artist.close()
            self._artist = None

    def _show_all(self) -> None:
        while self._asked:
            self._show_next()

    def _show_next(self) -> None:
        drawing, picture = self._asked[0]
        error = picture.exception()  # waits; the function's, or the process has ended
        del self._asked[0]
        if drawing.name in self._failed:
            return
        self._failed.add(drawing.name)
        with harmless(f"The figure {drawing.name}", self._trainer, drawing.update):
            drawing.show(picture.result()) if error is None else drawing.here()
            self._failed.remove(drawing.name)
