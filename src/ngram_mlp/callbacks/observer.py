"""What the callbacks that look inside the network share: the look at an update."""

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ngram_mlp.callbacks.cadence import NOTHING, Cadence
from ngram_mlp.callbacks.findings import Findings
from ngram_mlp.errors import UserError
from ngram_mlp.looks import Look, look_at
from ngram_mlp.models import LanguageModel

__all__ = ["Observer", "current_look"]

T = TypeVar("T")
_looks: WeakKeyDictionary[Trainer, Look] = WeakKeyDictionary()


class Observer(Callback):
    """A callback that looks at the network at some updates; a subclass says what it finds in `observe`.

    A look at update n is the forward and backward pass of minibatch n with the parameters before that update. It is
    taken once for all observers, and leaves no trace (promise 4). The block stream lets the updates that are looked
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
        if self._due != NOTHING:
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
