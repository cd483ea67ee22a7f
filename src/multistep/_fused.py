"""Performs all updates of a chunk in one call of native code, compiled from a module's update: the fused engine."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from multistep import _check
from multistep._averaging import Average
from multistep._describe import is_known
from multistep._errors import CannotFuseError, explained
from multistep._guards import guarded, surroundings
from multistep._optimizers import plain_step
from multistep._origins import sources_of
from multistep._signals import abandoned_by_signals
from multistep._step import Outcome, Reference, Rule, gradients_on_a_copy, perform_on_copies, state_of_users
from multistep._threads import use_fastest
from multistep._tree import Accepted, flatten, is_simple
from multistep._update import TracedUpdate, tracing
from multistep.compiled import cache, compiler
from multistep.compiled.program import Program

TRIAL_UPDATES = 8
# The time of compiling, its increase per tensor of the state, and the time of an eager minibatch besides its graph.
# The unit is the eager time of a graph node or a state tensor. Fitted to five networks on one machine.
COMPILING, COMPILING_TENSOR, AROUND = 200_000, 5_500, 25
PERTURBATIONS = 3  # of rounding size, with which a difference is compared
RAISED = 1e-3  # the learning rate of a trial if it is zero


class FusedEngine:
    """Performs the same updates as plain PyTorch, up to rounding, in native code.

    The update of one minibatch is compiled, and native code repeats it for each minibatch of a chunk. It works in place
    on the module's own parameters, buffers, optimizer state and averages. A run therefore has the same bits however it
    is cut into chunks. A CannotFuseError is raised, and nothing changed, if an update cannot be fused.

    Args:
        module: the module whose `training_step` is performed.
        optimizer: its `step` is performed; it must have performed an update before, so that it has its state.
        rule: the trainer's options for an update.
        averages: the averages that the updates move.
        batch: a minibatch like those to come.
        context: returns the precision context in which Lightning performs a step.
        say: prints a line for the user.

    Attributes:
        layout: the layout of the minibatches that the compiled code is for.
        accepted: recognizes these minibatches.
        watch: watches what the step depends on.
    """

    draws = False  # whether a step draws random numbers

    def __init__(
        self,
        module: LightningModule,
        optimizer: Optimizer,
        rule: Rule,
        averages: Sequence[Average],
        batch: Any,
        context: Callable[[], AbstractContextManager[Any]],
        say: Callable[[str], None],
    ) -> None:
        self._module, self._optimizer, self._rule, self._averages = module, optimizer, rule, averages
        self._batch, self._context, self._say = batch, context, say
        try:
            tensors, self.layout = flatten(batch)
        except TypeError as error:
            raise CannotFuseError(str(error)) from error
        if not all(map(is_simple, tensors)):
            raise CannotFuseError("the minibatch holds a tensor that is sparse, conjugated, or requires a gradient")
        self.accepted = Accepted(tensors, self.layout)
        self._shapes = repr([self.layout.structure, [(dtype, shape) for shape, dtype, _ in self.layout.tensors]])
        storages = {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}
        if len(storages) < sum(tensor.numel() > 0 for tensor in tensors):
            raise CannotFuseError("tensors of the minibatch share memory")
        with explained("described"):
            self._update = TracedUpdate(module, optimizer, rule, averages, self.layout)
            devices = {tensor.device.type for tensor in self._update.state()} | {t[2].type for t in self.layout.tensors}
            if others := devices - {"cpu"}:
                raise CannotFuseError(f"compiled code runs on the CPU, not on {', '.join(sorted(others))}")
            state = state_of_users(module, optimizer)
            self.watch, outcome = perform_on_copies(module, optimizer, rule, batch, context, rule.accumulate, state)
            self._receiving = outcome.keys()  # the parameters that a gradient reaches
            self._description = self._describe()
            with state.kept():
                self._trial = self._reference(TRIAL_UPDATES)
        self.captured = self._trial.captured
        with context():
            self.low = self.captured.low or torch.is_autocast_enabled("cpu")
        self._program: Program | None = None

    def trial_outputs(self) -> list[Tensor]:
        """Returns the outputs of the last trial, each (minibatches, ...)."""
        return self._trial.outputs

    def pays_from(self) -> int:
        """Returns the number of updates from which compiling saves time, by the size of the update alone.

        It depends neither on the machine, whose speed affects both sides, nor on earlier compilations. A repeated run
        therefore uses the same engine anywhere and at any time.
        """
        tensors = len(self._update.state())
        eager = self._rule.accumulate * (AROUND + self.captured.nodes) + tensors
        return (COMPILING + COMPILING_TENSOR * tensors) // eager

    def compile(self, threads: Sequence[int]) -> None:
        """Compiles or loads an update, tries it on copies, and chooses the number of threads."""
        programs: dict[int, Program] = {}
        with explained("compiled"):
            for number in threads:
                torch.set_num_threads(number)
                programs[number] = self._program_for(self._key(number))
            inputs = [*self._copies(), *self._trial_inputs(TRIAL_UPDATES)]
            count = TRIAL_UPDATES * self._rule.accumulate
            with guarded():
                fastest = use_fastest(list(programs), lambda number: programs[number].run(inputs, count))
        self._program = programs[fastest]

    def is_outdated(self, optimizer: Optimizer, rule: Rule, averages: Sequence[Average]) -> bool:
        """Returns whether the optimizer, its step, the rule or the averages are no longer those that were compiled."""
        if optimizer is not self._optimizer or plain_step(optimizer) is None:
            return True
        return rule != self._rule or [a.description() for a in averages] != [a.description() for a in self._averages]

    def changed(self) -> bool:
        """Returns whether anything that the compiled code depends on has changed since it was compiled."""
        with explained("described"):
            changed = self._update.has_other_parts() or self.watch.has_changed(self._module, self._description[0])
            return changed or [self._update.description(), surroundings()] != [*self._description[1::2]]

    def run(self, tensors: Sequence[Tensor], rates: Tensor, ends: Tensor, due: Tensor, within: bool) -> list[Tensor]:
        """Performs the steps of K minibatches, and the updates that they end.

        Args:
            tensors: the tensors of the minibatches, each (K, ...).
            rates: the learning rates of the parameter groups, float64 (K, groups).
            ends: whether each minibatch ends an update, (K,).
            due: whether each average is moved then, (K, averages).
            within: whether the first minibatch continues an update that has accumulated gradients.

        Returns:
            The outputs in the order of `Captured.tensors`, each (K, ...).
        """
        assert self._program is not None
        assert [(x.shape[1:], x.dtype) for x in tensors] == [kind[:2] for kind in self.layout.tensors]
        self._update.load_sums(within)
        self._update.renew(self._trial.renewed)
        outputs = self._outputs(len(rates))
        inputs = [*(tensor.contiguous() for tensor in tensors), rates, ends, due, *outputs]
        self._program.run([*self._update.state(), *inputs], len(rates))
        if self._rule.accumulate > 1 and not bool(ends[-1]):
            self._update.leave_sums(self._receiving)
        else:
            for group in self._optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        return outputs

    def restoring(self) -> Callable[[], None]:
        """Returns a function that restores the present values of all tensors that an update changes."""
        state = [tensor.clone() for tensor in self._update.state()]
        gradients = [(parameter, parameter.grad) for parameter in self._module.parameters()]

        def restore() -> None:
            with torch.no_grad():
                for tensor, value in zip(self._update.state(), state, strict=True):
                    tensor.copy_(value)
            for parameter, gradient in gradients:
                parameter.grad = gradient

        return restore

    def state(self) -> list[Tensor]:
        """Returns all tensors that an update changes."""
        return self._update.state()

    def gradients(self, batch: Any, within: bool) -> list[Tensor | None]:
        """Returns the gradients that an update with this minibatch would leave in the module's parameters."""
        with self._context():
            return gradients_on_a_copy(self._module, self._optimizer, self._rule, self.watch, batch, within)

    def check(self, batch: Any) -> str | None:
        """Performs one update on copies, compiled and as plain PyTorch; returns what differs, or None."""
        self._batch = batch
        with explained("compared"):
            self._trial = self._reference(1)
        if self._trial.captured.structure() != self.captured.structure():
            return "what it logs or returns"
        assert self._program is not None
        return self._difference(self._program, 1)

    def _reference(self, updates: int, perturbed: int | None = None) -> Outcome:
        """Performs updates by plain PyTorch on copies, and returns their outcome.

        With a seed `perturbed`, the parameters are perturbed by rounding first; the outcome has this subtracted.
        """
        shifts: dict[str, Tensor] = {}
        with guarded(), self._context():
            reference = Reference(self._module, self._optimizer, self._rule, self.watch)
            if perturbed is not None:
                shifts = _check.perturb(reference.parameters(), self.low, perturbed)
            count = updates * self._rule.accumulate
            outcome = reference.run([self._batch] * count, self._rates(count).tolist())
        outcome.tensors |= {name: outcome.tensors[name] - shift for name, shift in shifts.items()}
        self.draws = self.draws or reference.draws
        return outcome

    def _rates(self, count: int) -> Tensor:
        """Returns learning rates for a trial, (count, groups): none of them zero, except in one of several updates."""
        groups = self._optimizer.param_groups
        rates = [max(float(group["lr"]), float(group.get("initial_lr", 0.0))) or RAISED for group in groups]
        found = torch.tensor(rates, dtype=torch.float64).repeat(count, 1)
        found[self._rule.accumulate : -self._rule.accumulate][: self._rule.accumulate] = 0
        return found

    def _trial_inputs(self, updates: int) -> list[Tensor]:
        each = self._rule.accumulate
        count = updates * each
        tensors, _ = flatten(self._batch)
        stacked = [tensor.detach().expand(count, *tensor.shape).contiguous() for tensor in tensors]
        ends = torch.arange(1, count + 1) % each == 0
        due = torch.zeros(count, len(self._averages), dtype=torch.bool)
        return [*stacked, self._rates(count), ends, due, *self._outputs(count)]

    def _outputs(self, count: int) -> list[Tensor]:
        return [torch.empty(count, *tensor.shape, dtype=tensor.dtype) for tensor in self.captured.tensors()]

    def _describe(self) -> list[Any]:
        """Returns everything that the compiled code depends on in this process."""
        return [self.watch.describe(self._module), self._update.description(), self._shapes, surroundings()]

    def _key(self, threads: int) -> str | None:
        """Returns the key of the compiled code; None if it depends on something known only in this process."""
        sources = sources_of(self._module)
        if sources is None or not is_known(self._description):
            return None
        with self._context():
            return cache.key_of([self._description, sources, threads])

    def _program_for(self, key: str | None) -> Program:
        """Returns a program for torch's present number of threads, from the cache or newly compiled."""
        started = time.perf_counter()
        program = None if key is None else cache.load(key)
        if program is not None and self._difference(program, TRIAL_UPDATES) is None:
            self._say(f"engine fused: loaded compiled code from the cache in {time.perf_counter() - started:.1f} s")
            return program
        self._say("engine fused: compiling ...")
        compile_update = compiler()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows locks a library in use
            inputs = self._trial_inputs(1)
            tracing_update = tracing(self._update, self._module, self._optimizer, self.watch)
            with self.watch.preserved(), tracing_update as traced, self._context(), abandoned_by_signals():
                code, plan = compile_update(traced, self._update.state(), inputs, Path(folder), self._say)
            assert traced.captured is not None
            if traced.captured.structure() != self.captured.structure():
                raise CannotFuseError("training_step behaves differently when traced")
            program = Program(code, plan)
            if difference := self._difference(program, TRIAL_UPDATES):
                raise CannotFuseError(f"compiled code differs from training_step in {difference}")
            if key is not None and (problem := cache.save(key, code, plan)):
                self._say(f"engine fused: could not cache the compiled code for the next run: {problem}")
        self._say(f"engine fused: compiled in {time.perf_counter() - started:.1f} s")
        return program

    def _difference(self, program: Program, updates: int) -> str | None:
        """Returns which tensors or outputs differ between compiled updates of copies and the trial, or None."""
        self._update.load_sums(within=False)  # drops the sums of an update that another engine has ended
        inputs, state = self._trial_inputs(updates), self._copies()
        with guarded():
            program.run([*state, *inputs], updates * self._rule.accumulate)
        before = self._update.named_state()
        addresses = {tensor.data_ptr(): copy for tensor, copy in zip(self._update.state(), state, strict=True)}
        found = {name: addresses[tensor.data_ptr()] if tensor.numel() else tensor for name, tensor in before.items()}
        found |= self.captured.named(inputs[-len(self.captured.tensors()) :])
        expected = {**self._trial.tensors, **self.captured.named(self._trial.outputs)}
        low = self.low or any(t.dtype.itemsize == 2 for t in expected.values())
        wrong = _check.differences(found, expected, before, low)
        for seed in range(PERTURBATIONS):  # several, as one may change little by chance
            if not wrong:
                return None
            other = self._reference(updates, seed)
            perturbed = {**other.tensors, **self.captured.named(other.outputs)}
            wrong = _check.beyond_rounding(wrong, expected, perturbed)
        if not wrong:
            return None
        name, *others = wrong
        more = f" and {len(others)} more" if others else ""
        return f"{name}{more} after {updates} update{'s' if updates > 1 else ''}"

    def _copies(self) -> list[Tensor]:
        return [tensor.clone() for tensor in self._update.state()]
