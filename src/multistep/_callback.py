"""The callback that trains a module several updates at a time."""

from contextlib import suppress
from typing import Any, Literal, get_args

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from torch import Tensor

from multistep import _threads
from multistep._calls import BATCH_HOOKS, NOTHING, is_others, single_step_reason
from multistep._errors import EngineUnavailableError
from multistep._guards import guarded
from multistep._optimizers import copied
from multistep._releases import unknown_release
from multistep._signals import deferring_signals
from multistep._step import Rule, perform_on_copies, perform_step
from multistep._tree import flatten

EngineName = Literal["auto", "fused", "eager", "lightning"]


class MultiStep(Callback):
    """Trains any LightningModule several updates at a time, with the outcome of ordinary training.

    What is performed is the module's own `training_step` and its optimizer's own `step`. Between the updates at which
    another callback, validation or a logger needs to be called, the engine performs them:

    - `fused` compiles an update to native code, for a CPU. It is compared with the module's own step before it is
      trusted and again while it trains, and agrees with it to float32 rounding.
    - `eager` performs the updates as Python, with the bits of ordinary training.
    - `lightning` is ordinary training, where somebody has to be called at every update.
    - `auto` takes the first of these that works and pays.

    Args:
        engine: one of these names.

    Attributes:
        engine_used: the engine that trains or trained: `fused`, `eager` or `lightning`; None before.
        reason: why it is not a faster one; None where it is `fused`.

    Raises:
        EngineUnavailableError: `fused` or `eager` was asked for and cannot train this.

    >>> from pytorch_lightning import Trainer
    >>> trainer = Trainer(max_epochs=20, callbacks=[MultiStep()], logger=False, enable_checkpointing=False)
    """

    update_calls = NOTHING

    def __init__(self, engine: EngineName = "auto") -> None:
        if engine not in get_args(EngineName):
            raise ValueError(f"engine {engine!r}: give one of {', '.join(get_args(EngineName))}")
        self.engine = engine
        self.engine_used: str | None = None
        self.reason: str | None = None
        self.threads: int | None = None
        self._resumed: dict[str, Any] = {}
        self._loop: Any = None
        self._threads_before = torch.get_num_threads()
        self._threads_chosen = False
        self.validations = 0  # so far
        self._others = False
        self._known_callbacks: list[Callback] = []

    @property
    def resumes(self) -> bool:
        """Whether a run goes on that this callback trained before an interruption."""
        return bool(self._resumed)

    @property
    def wanted(self) -> str:
        """The engine that is asked for, or that an interrupted run had."""
        resumed = self._resumed.get("engine")
        if self.engine == "auto" and resumed in ("eager", "fused"):
            return str(resumed)
        return self.engine

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._put_back()  # what a training that ended in an exception left
        self._threads_before, self._threads_chosen = torch.get_num_threads(), False
        self.engine_used, self.reason = None, None
        against = "as asked" if self.engine == "lightning" else None
        if against is None and self.engine == "auto":
            against = unknown_release()
        if against is None:
            against = single_step_reason(trainer)
        if against is not None:
            self.leave_to_lightning(against)
            return
        try:
            from multistep._loop import StepLoop  # here, as it may be impossible with a release to come
        except ImportError as error:
            self.tell("lightning", f"{unknown_release() or error}")
            return
        self._loop = StepLoop(trainer, self)
        self._loop.install()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._threads_chosen:
            self._threads_chosen = True
            self._choose_threads(trainer, pl_module, batch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loop is not None:
            self._loop.finish()
            if self.engine_used is None:
                self.tell("eager", "the optimizer itself performs the first update, and there was no other")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_threads()  # those that suit a minibatch may be too few for the batches of validation

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validations += 1
        if self._threads_chosen and self.threads and torch.get_num_threads() == self._threads_before:
            torch.set_num_threads(self.threads)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._resumed = {}
        if stage == "fit":
            self._restore_threads()
            self._put_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_threads()
        self._put_back()

    def _restore_threads(self) -> None:
        if self._threads_chosen and torch.get_num_threads() == self.threads:  # not where somebody else has set them
            torch.set_num_threads(self._threads_before)

    def _put_back(self) -> None:
        if self._loop is not None:
            self._loop.remove()
            self._loop = None

    def state_dict(self) -> dict[str, Any]:
        return {"engine": self.engine_used, "threads": self.threads}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = dict(state_dict)

    def tell(self, engine: str, reason: str | None) -> None:
        """Notes which engine trains, and why it is not a faster one, and prints a line."""
        self.engine_used, self.reason = engine, reason
        if reason is not None:
            self.say(f"engine {engine}: {reason}")

    def leave_to_lightning(self, reason: str) -> None:
        """Has Lightning's own loop train; raises an EngineUnavailableError where another engine was asked for."""
        if self.engine in ("eager", "fused"):
            raise EngineUnavailableError(f"engine {self.engine}: {reason}; use auto or lightning")
        self.tell("lightning", reason)

    def fall_back(self, reason: str) -> None:
        """Has the eager engine train from now on; raises an EngineUnavailableError where `fused` was asked for."""
        if self.engine == "fused":
            raise EngineUnavailableError(f"engine fused: {reason}; use auto or eager")
        self.tell("eager", reason)

    def say(self, line: str) -> None:
        """Prints a line as Lightning prints its own."""
        rank_zero_info(line)

    def others_are_called(self, trainer: Any) -> bool:
        """Returns whether a callback that is not Lightning's is called around a minibatch."""
        if self._known_callbacks != trainer.callbacks:
            self._known_callbacks = [*trainer.callbacks]
            self._others = any(
                callback is not self
                and is_others(callback)
                and any(is_overridden(hook, callback, Callback) for hook in BATCH_HOOKS)
                for callback in trainer.callbacks
            )
        return self._others

    def candidates(self, trainer: Any, batch: Any) -> list[int]:
        """Returns the numbers of threads among which to choose."""
        if self._threads_chosen and self.threads and self._resumed.get("threads"):
            return [self.threads]
        torch.set_num_threads(self._threads_before)
        return _threads.candidates(trainer.lightning_module, _examples_in(batch), self._resumed.get("threads"))

    def note_threads(self) -> None:
        """Notes the number of threads that torch uses now."""
        self.threads = torch.get_num_threads()

    @deferring_signals(interrupts=False)
    def _choose_threads(self, trainer: Any, module: LightningModule, batch: Any) -> None:
        """Has torch use the number of threads with which a minibatch's gradient takes the shortest time."""
        numbers = self.candidates(trainer, batch)
        if len(numbers) > 1:
            with suppress(Exception):
                context = trainer.precision_plugin.train_step_context
                watch, _ = perform_on_copies(module, trainer.optimizers[0], Rule(), batch, context, 1)
                twin, _, _ = copied(module, trainer.optimizers[0])

                def trial(_: int) -> None:
                    with guarded(), context():
                        torch.autograd.backward(perform_step(twin, batch).loss)

                with watch.preserved():
                    _threads.use_fastest(numbers, trial)
                self.note_threads()
                return
            numbers = numbers[-1:]  # what cannot be tried keeps the user's number
        torch.set_num_threads(numbers[0])
        self.note_threads()


def _examples_in(batch: Any) -> int:
    try:
        tensors: list[Tensor] = flatten(batch)[0]
    except TypeError:
        return 1
    return max((len(tensor) for tensor in tensors if tensor.dim()), default=1)
