"""Draws figures while the run continues."""

import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pickle import PicklingError
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
        self._trains = False

    # Not before: the initial checks compute with all cores, and take three times as long if one is busy.
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer, self._trains = trainer, True
        self._failed.clear()
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
            with suppress(PicklingError, AttributeError, TypeError):  # such as a local function
                self._asked.append((drawing, self._artist.draw(drawing.function, *drawing.args, name=drawing.run)))
                return True
        return False

    def state_dict(self) -> dict[str, Any]:
        """Shows what is asked for, which a run resumed from this state would not draw again; but not at the end."""
        if self._trains:
            self._show_all()
        return {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trains = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show_all()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if is_an_end(exception):
            self._show_all()
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._artist:
            self._artist.close()
            self._artist = None

    def _show_all(self) -> None:
        try:
            while self._asked:
                self._show_next()
        except BaseException:  # a second signal, which does not wait
            self._asked.clear()
            raise

    def _show_next(self) -> None:
        (drawing, picture), self._asked = self._asked[0], self._asked[1:]
        if drawing.name in self._failed:
            return
        self._failed.add(drawing.name)
        with harmless(f"The figure {drawing.name}", self._trainer, drawing.update):
            try:
                found = picture.result()
            except Exception:  # the function's, or the process has ended
                drawing.here()
            else:
                drawing.show(found)
            self._failed.remove(drawing.name)
