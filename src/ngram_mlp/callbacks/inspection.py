"""Inspects the network during training; a failing diagnosis never costs the run."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pytorch_lightning import Callback, LightningModule, Trainer

from multistep import Calls
from ngram_mlp.callbacks.harmless import harmless, is_an_end
from ngram_mlp.callbacks.quantity import Quantity
from ngram_mlp.callbacks.recorder import NOTHING, Due, Recorder, begins_update
from ngram_mlp.diagnostics.snapshot import Snapshot, take_snapshot
from ngram_mlp.models import LanguageModel
from runlab import UserError, updates_of

T = TypeVar("T")


class Inspect(Callback):
    """Takes snapshots of the network for quantities; one that fails is switched off, and the run continues.

    Args:
        quantities: what to measure, in this order.
    """

    def __init__(self, quantities: Sequence[Quantity]) -> None:
        self._quantities = list(quantities)
        self._snapshots_failed = False
        self._failed: set[Quantity] = set()
        self._due: dict[Quantity, Due] = {}
        self._snapshot: Snapshot | None = None
        self._undrawn: dict[Quantity, Snapshot] = {}  # each quantity's last snapshot since it drew
        self._trainer: Any = None

    @property
    def update_calls(self) -> Calls:
        """The updates around which the trainer must call the hooks."""
        calls = [quantity.intervals.calls.around for quantity in self._quantities]
        around = [numbers for numbers in calls if numbers is not None]
        return Calls(around=tuple({number for numbers in around for number in numbers}) if around else None)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        if stage == "fit":
            self._snapshots_failed = False
            self._failed.clear()
            self._undrawn.clear()
            for quantity in self._quantities:
                quantity.reset()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, LanguageModel)
        if not begins_update(trainer, batch_idx):
            return
        update, last = trainer.global_step, updates_of(trainer) - 1
        # Of those that have failed, too: perhaps on one process alone, and all must take a snapshot together.
        due = {one: one.intervals.due(update, last) for one in self._quantities}
        self._due = {one: kinds for one, kinds in due.items() if kinds != NOTHING}
        if not self._due or self._snapshots_failed:
            return
        who, precision = "The snapshot (needed by all quantities)", trainer.precision_plugin
        snapshot: Snapshot | None = None
        with harmless(who, trainer, update), precision.train_step_context():
            contexts, targets = batch
            snapshot = take_snapshot(pl_module.network, contexts, targets, update)
        if snapshot is None:
            self._snapshots_failed = True
            self._failed.update(self._quantities)
            return
        self._snapshot = snapshot
        for quantity in self._due:
            if not quantity.selected({**snapshot.layers, **snapshot.nonlinearities, **snapshot.parameters}):
                names = ", ".join(snapshot.layers)
                raise UserError(f"matches no layer; the layers are {names}", layers=quantity.layers)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, LanguageModel)
        if (snapshot := self._snapshot) is None or trainer.global_step == snapshot.update:  # it still accumulates
            return
        self._snapshot = None
        for quantity, kinds in self._due.items():
            recorder = Recorder(trainer, snapshot.update, kinds)
            self._call(quantity, snapshot.update, quantity.observe, snapshot, pl_module, recorder)
            self._undrawn[quantity] = snapshot
            if kinds.figures:
                self._call(quantity, snapshot.update, quantity.draw, pl_module, recorder)
                del self._undrawn[quantity]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        for quantity, snapshot in self._undrawn.items():  # the run ended before its last update
            self._call(quantity, None, quantity.draw, pl_module, Recorder(trainer, snapshot.update))
        self._undrawn.clear()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if is_an_end(exception):
            self.on_train_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        for quantity in self._quantities:
            self._call(quantity, None, quantity.conclude, pl_module, Recorder(trainer, trainer.global_step))

    def state_dict(self) -> dict[str, Any]:
        states = {name: self._call(quantity, None, quantity.state_dict) for name, quantity in self._by_name.items()}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, quantity in self._by_name.items():
            if name in state_dict:
                quantity.load_state_dict(state_dict[name])

    @property
    def _by_name(self) -> dict[str, Quantity]:
        """The quantities by class name, numbered from the second of a class on."""
        found, counts = dict[str, Quantity](), Counter[str]()
        for quantity in self._quantities:
            name = type(quantity).__name__
            counts[name] += 1
            found[name if counts[name] == 1 else f"{name}-{counts[name]}"] = quantity
        return found

    def _call(self, quantity: Quantity, update: int | None, hook: Callable[..., T], *args: Any) -> T | None:
        """Calls a hook of a quantity; returns None if it fails, now or before."""
        if quantity in self._failed:
            return None
        with harmless(type(quantity).__name__, self._trainer, update):
            return hook(*args)
        self._failed.add(quantity)
        return None
