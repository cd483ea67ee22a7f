"""Has figures drawn while the run goes on."""

import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pickle import PicklingError
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from multistep import Calls
from ngram_mlp.callbacks.harmless import harmless, is_an_end
from runlab import Artist, Picture


class Figures(Callback):
    """Draws figures in a process of its own, and shows each when it is finished, at the latest when the run ends.

    It comes after the callbacks that draw. Without it, or if matplotlib is imported already, they draw by themselves.
    """

    update_calls = Calls()  # requests no calls

    def __init__(self) -> None:
        self._artist: Artist | None = None
        self._asked: list[tuple[Future[Picture], Callable[[Picture], None]]] = []

    # Not before: the initial checks compute with all cores, and take three times as long if one is busy.
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer = trainer
        if trainer.is_global_zero and "matplotlib" not in sys.modules:
            self._artist = Artist()

    def takes(self, show: Callable[[Picture], None], function: Callable[..., Any], *args: Any, name: str) -> bool:
        """Returns whether it draws what `runlab.draw` would draw; `show` gets the picture some time later."""
        while self._asked and self._asked[0][0].done():
            self._show_next()
        if self._artist is not None:
            with suppress(PicklingError, AttributeError, TypeError):  # such as a local function
                self._asked.append((self._artist.draw(function, *args, name=name), show))
                return True
        return False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        while self._asked:
            self._show_next()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if is_an_end(exception):
            self.on_fit_end(trainer, pl_module)
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._artist:
            self._artist.close()
            self._artist = None

    def _show_next(self) -> None:
        picture, show = self._asked.pop(0)
        with harmless("A figure", self._trainer):
            show(picture.result())
