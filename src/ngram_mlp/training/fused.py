"""The fused engine: an update compiled to native code, which performs all updates of a chunk in one call."""

import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ngram_mlp.errors import UserError
from multistep.compiled import cache as library
from multistep.compiled.program import Program
from ngram_mlp.training.compiling.structure import is_known, sources_of
from ngram_mlp.training.compiling.traced import TracedUpdate
from ngram_mlp.training.engines import Trial
from ngram_mlp.training.optimizers import CannotFuseError
from ngram_mlp.training.processes import processes
from ngram_mlp.training.schedules import changes_more_than_the_learning_rate, upcoming_rates
from multistep._threads import use_fastest
from ngram_mlp.training.updates import PLAIN, UpdateRule

log = logging.getLogger(__name__)

# By how much the losses of a trial may differ, relative: rounding, in float32 and in lower precision.
TOLERANCE, LOW_TOLERANCE = 1e-4, 2e-2


class FusedEngine:
    """Performs the same updates as `EagerEngine`, up to float32 rounding, and many times as fast.

    One update (the gradient of the loss, clipping, the optimizer's formula, running statistics, averages) is compiled
    for one minibatch. It works in place, on parameters, buffers, optimizer state and averages where they always live,
    and native code repeats it for each minibatch of a chunk; so a run has the same bits however it is cut. What cannot
    be fused raises a CannotFuseError.
    """

    name = "fused"
    lr = 0.0

    def __init__(
        self, network: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, rule: UpdateRule = PLAIN
    ) -> None:
        if processes() > 1:
            raise CannotFuseError("several processes have to exchange their gradients at every update")
        if changes_more_than_the_learning_rate(scheduler):
            raise CannotFuseError(f"the schedule {type(scheduler).__name__} changes the momentum, too")
        self._network = network
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._rule = rule
        self._update = TracedUpdate(network, optimizer, rule)
        self._dtype = torch.float32  # of the losses
        self._program: Program | None = None
        self._description: list[Any] = []  # of what the program was compiled for

    def pays_from(self, contexts: Tensor, targets: Tensor) -> int:
        """The number of updates from which on compiling saves time on this machine; 0 if it was done before."""
        key = self._key(self._describe(contexts, targets), threads=1)
        if key is not None and library.has(key):
            return 0
        trial = Trial(self._network, self._optimizer, self._rule, contexts, targets)
        seconds = library.seconds_to_compile(len(self._update.still()))
        return int(seconds / trial.seconds())  # beside an eager update, a fused one is short

    def compile(self, contexts: Tensor, targets: Tensor, threads: Sequence[int] = ()) -> None:
        """Compiles an update for minibatches of these shapes, or loads it; tries it on copies, and performs none.

        Args:
            contexts: of a chunk, (K, B, T).
            targets: of a chunk, (K, B).
            threads: the numbers of threads to choose from; by default torch's present one.
        """
        self._description = self._describe(contexts, targets)
        trial = Trial(self._network, self._optimizer, self._rule, contexts, targets)
        self._dtype = trial.losses.dtype
        minibatches = self._minibatches_of(trial)
        programs = {}
        for number in threads or [torch.get_num_threads()]:
            torch.set_num_threads(number)
            programs[number] = self._program_for(trial, minibatches, self._key(self._description, number))
        copies = [*self._copies(), *minibatches]
        self._program = programs[use_fastest(list(programs), lambda number: programs[number].run(copies, trial.count))]

    def run(self, contexts: Tensor, targets: Tensor, first: int) -> Tensor:
        program = self._program_of_now(contexts, targets)
        updates = len(contexts) // self._rule.minibatches
        rates = upcoming_rates(self._optimizer, self._scheduler, updates)
        shares = [average.shares(first, updates) for average in self._rule.averages]
        minibatches = self._minibatches(contexts, targets, rates, shares)
        program.run([*self._update.still(), *minibatches], len(contexts))
        for average, moved in zip(self._rule.averages, shares, strict=True):
            average.moved(first, moved)
        self.lr = float(rates[-1, 0])
        return self._by_update(minibatches[-1])

    def _program_of_now(self, contexts: Tensor, targets: Tensor) -> Program:
        """The program, compiled again if somebody has changed what it depends on, such as an option or a layer."""
        try:
            if self._program is None or self._describe(contexts, targets) != self._description:
                self.compile(contexts, targets)
        except CannotFuseError as error:
            raise UserError(f"was changed during the training: {error}; use engine eager", network=None) from error
        assert self._program is not None
        return self._program

    def _minibatches(self, contexts: Tensor, targets: Tensor, rates: Tensor, shares: Sequence[Tensor]) -> list[Tensor]:
        """What a chunk gives the update for each of its minibatches; the last tensor is for their losses."""
        each, count = self._rule.minibatches, len(contexts)
        ends = torch.arange(1, count + 1) % each == 0
        of_averages = torch.zeros(count, len(shares))
        if shares:
            of_averages[ends] = torch.stack(list(shares), dim=1)
        losses = torch.zeros(count, dtype=self._dtype)
        rates = rates.repeat_interleave(each, 0)
        return [contexts.contiguous(), targets.contiguous(), rates.contiguous(), of_averages, ends, losses]

    def _by_update(self, losses: Tensor) -> Tensor:
        each = self._rule.minibatches
        return losses if each == 1 else losses.view(-1, each).mean(1)

    def _describe(self, contexts: Tensor, targets: Tensor) -> list[Any]:
        """All that the compiled code depends on in this process: the update, and the shapes of a minibatch."""
        if contexts.device.type != "cpu":
            raise CannotFuseError(f"it compiles for the CPU only, this is {contexts.device.type}")
        shapes = [(str(tensor.dtype), list(tensor.shape[1:])) for tensor in (contexts, targets)]
        return [self._update.description(), shapes]

    def _key(self, description: list[Any], threads: int) -> str | None:
        """Under which the compiled code is kept; None if it depends on what cannot be told to the next process."""
        sources = sources_of(self._network)
        if sources is None or not is_known(description):
            return None
        return library.key_of([description, sources, threads])

    def _program_for(self, trial: Trial, minibatches: list[Tensor], key: str | None) -> Program:
        """A program for torch's present number of threads, kept or newly compiled."""
        started = time.perf_counter()
        program = None if key is None else library.load(key)
        if program is not None and self._difference(program, trial, minibatches) is None:
            log.info("engine  fused: compiled before, loaded in %.1f s", time.perf_counter() - started)
            return program
        log.info("engine  fused: compiling ...")
        compile_update = _compiler()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps a library in use
            code, plan = compile_update(self._update, self._update.still(), minibatches, Path(folder))
            program = Program(code, plan)
            if self._describe(trial.contexts, trial.targets) != self._description:
                raise CannotFuseError("the forward pass changes an attribute of the network")
            if difference := self._difference(program, trial, minibatches):
                raise CannotFuseError(difference)
            seconds = time.perf_counter() - started
            if key is not None:
                if error := library.save(key, code, plan, seconds, len(self._update.still())):
                    log.info("engine  fused: the compiled code is not kept for the next run: %s", error)
        log.info("engine  fused: compiled in %.1f s", seconds)
        return program

    def _difference(self, program: Program, trial: Trial, minibatches: list[Tensor]) -> str | None:
        """What is wrong where compiled updates, of copies, have other losses than a trial, else None."""
        with trial.same_random_numbers():
            program.run([*self._copies(), *minibatches], trial.count)
        found, expected = self._by_update(minibatches[-1]), trial.losses
        low = torch.is_autocast_enabled("cpu") or any(t.dtype.itemsize == 2 for t in self._update.still())
        tolerance = LOW_TOLERANCE if low else TOLERANCE
        if torch.allclose(found, expected, rtol=tolerance, atol=0.0, equal_nan=True):
            return None
        return f"compiled, the first updates have the losses {found.tolist()}, not {expected.tolist()}"

    def _minibatches_of(self, trial: Trial) -> list[Tensor]:
        """The minibatches of a trial, with the present learning rates, and averages that stay as they are."""
        updates = trial.count // self._rule.minibatches
        rates = torch.tensor([group["lr"] for group in self._optimizer.param_groups], dtype=torch.float64)
        shares = [torch.zeros(updates) for _ in self._rule.averages]
        return self._minibatches(trial.contexts, trial.targets, rates.expand(updates, -1), shares)

    def _copies(self) -> list[Tensor]:
        return [tensor.clone() for tensor in self._update.still()]


def _compiler() -> Any:
    """The function that compiles, imported now, since torch's compiler takes seconds to import."""
    if not __debug__:
        raise CannotFuseError("python -O has torch compile wrong code; leave it out")
    try:
        from multistep.compiled.inductor import compile_update
    except Exception as error:  # of a package or a locale that torch did not reckon with
        raise CannotFuseError(f"torch's compiler cannot be imported here ({type(error).__name__}: {error})") from error
    return compile_update
