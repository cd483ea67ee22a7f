"""Trains a module several updates at a time, as a Lightning callback."""

from contextlib import suppress
from typing import Any, Literal, get_args

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from torch import Tensor

from multistep import _threads
from multistep._calls import BATCH_HOOKS, NOTHING, is_others, is_overridden, single_step_reason
from multistep._copies import copied
from multistep._errors import EngineUnavailableError
from multistep._guards import guarded
from multistep._releases import unknown_release
from multistep._signals import deferring_signals
from multistep._step import Rule, perform_on_copies, perform_step, state_of_users
from multistep._tree import flatten

EngineName = Literal["auto", "fused", "eager", "lightning"]


class MultiStep(Callback):
    """Trains any LightningModule several updates at a time, with the results of ordinary training.

    It performs the module's own `training_step` and its optimizer's own `step`. An engine performs the updates between
    those at which another callback, validation or a logger must be called:

    - `fused` compiles an update to native code for the CPU. The code is compared with the module's own step before it
      trains and again while it trains, and agrees with it to float32 rounding.
    - `eager` performs the updates as Python, bit for bit as in ordinary training.
    - `lightning` is ordinary training, for whatever the other two cannot train.
    - `auto` takes the first of these that works and saves time.

    Args:
        engine: one of these names.

    Attributes:
        engine_used: the engine that trains or trained: `fused`, `eager` or `lightning`; None before training.
        reason: why no faster engine is used; None for `fused`.

    Raises:
        EngineUnavailableError: `fused` or `eager` was requested and cannot train this module.

    >>> from pytorch_lightning import Trainer
    >>> trainer = Trainer(max_epochs=20, callbacks=[MultiStep()], logger=False, enable_checkpointing=False)
    """

    update_calls = NOTHING

    def __init__(self, engine: EngineName = "auto") -> None:
        if engine not in get_args(EngineName):
            raise ValueError(f"engine {engine!r} is not known; use one of {', '.join(get_args(EngineName))}")
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
        """True if this training resumes a run that this callback trained before an interruption."""
        return bool(self._resumed)

    @property
    def wanted(self) -> str:
        """The engine that was requested or, for `auto`, the one that the interrupted run used."""
        resumed = self._resumed.get("engine")
        if self.engine == "auto" and resumed in ("eager", "fused"):
            return str(resumed)
        return self.engine

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._put_back()  # in case the last training ended in an exception
        self._threads_before, self._threads_chosen = torch.get_num_threads(), False
        self.engine_used, self.reason = None, None
        against = "as requested" if self.engine == "lightning" else None
        if against is None and self.engine == "auto":
            against = unknown_release()
        if against is None:
            against = single_step_reason(trainer)
        if against is not None:
            self.leave_to_lightning(against)
            return
        try:
            from multistep._loop import StepLoop  # here, because a future release may break the import
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
                self.tell("eager", "there was only one update, and the optimizer itself performed it")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_threads()  # a number that suits a minibatch may be too low for validation

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
        if self._threads_chosen and torch.get_num_threads() == self.threads:  # unless someone else has set it
            torch.set_num_threads(self._threads_before)

    def _put_back(self) -> None:
        if self._loop is not None:
            self._loop.remove()
            self._loop = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loop": None}  # a copy does not train

    def state_dict(self) -> dict[str, Any]:
        return {"engine": self.engine_used, "threads": self.threads}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = dict(state_dict)

    def tell(self, engine: str, reason: str | None) -> None:
        """Records which engine trains and why no faster one does; prints a line if there is a reason."""
        self.engine_used, self.reason = engine, reason
        if reason is not None:
            self.say(f"engine {engine}: {reason}")

    def leave_to_lightning(self, reason: str) -> None:
        """Switches to Lightning's own loop; raises an EngineUnavailableError if `eager` or `fused` was requested."""
        if self.engine in ("eager", "fused"):
            raise EngineUnavailableError(f"engine {self.engine}: {reason}; use auto or lightning")
        self.tell("lightning", reason)

    def fall_back(self, reason: str) -> None:
        """Switches to the eager engine; raises an EngineUnavailableError if `fused` was requested."""
        if self.engine == "fused":
            raise EngineUnavailableError(f"engine fused: {reason}; use auto or eager")
        self.tell("eager", reason)

    def say(self, line: str) -> None:
        """Prints a line in the way Lightning prints its own."""
        rank_zero_info(line)

    def others_are_called(self, trainer: Any) -> bool:
        """Returns whether a callback other than this one and Lightning's own has hooks around a minibatch."""
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
        """Returns the numbers of threads to choose from."""
        if self._threads_chosen and self.threads and self._resumed.get("threads"):
            return [self.threads]
        torch.set_num_threads(self._threads_before)
        return _threads.candidates(trainer.lightning_module, _examples_in(batch), self._resumed.get("threads"))

    def note_threads(self) -> None:
        """Records torch's present number of threads."""
        self.threads = torch.get_num_threads()

    @deferring_signals(interrupts=False)
    def _choose_threads(self, trainer: Any, module: LightningModule, batch: Any) -> None:
        """Sets the number of threads with which the gradient of a minibatch is computed fastest."""
        numbers = self.candidates(trainer, batch)
        if len(numbers) > 1:
            with suppress(Exception):
                context = trainer.precision_plugin.train_step_context
                optimizer = trainer.optimizers[0]
                state = state_of_users(module, optimizer)
                watch, _ = perform_on_copies(module, optimizer, Rule(), batch, context, 1, state)
                twin, _, _ = copied(module, optimizer)

                def trial(_: int) -> None:
                    with guarded(), context():
                        torch.autograd.backward(perform_step(twin, batch).loss)

                with watch.preserved():
                    _threads.use_fastest(numbers, trial)
                self.note_threads()
                return
            numbers = numbers[-1:]  # the trial failed: keep the user's number
        torch.set_num_threads(numbers[0])
        self.note_threads()


def _examples_in(batch: Any) -> int:
    try:
        tensors: list[Tensor] = flatten(batch)[0]
    except TypeError:
        return 1
    return max((len(tensor) for tensor in tensors if tensor.dim()), default=1)
