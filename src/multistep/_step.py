"""One update of a module: its own `training_step`, clipping, and its optimizer's own `step`.

`Reference` performs it on copies, as plain PyTorch; `TracedUpdate` as a function of tensors alone, which the compiler
can trace. Both do what ordinary training does with one minibatch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.utils._pytree import tree_structure, tree_unflatten

from multistep._averaging import Average
from multistep._describe import first_difference
from multistep._errors import CannotFuseError
from multistep._guards import RefusingValue, guarded, identical, unchanged
from multistep._logs import Capture, Captured
from multistep._optimizers import Closure, copied, is_torchs, options_of, plain_step, state_of, traced_step
from multistep._tree import Layout, flatten, is_dense, is_simple, rebuild
from multistep._watch import Watch


@dataclass(frozen=True)
class Rule:
    """What an update does beside the optimizer's step, as the trainer's options ask for it."""

    accumulate: int = 1  # minibatches whose gradients an update adds up
    clip: float = 0.0  # the greatest norm of all gradients together, or absolute value of each; 0: not clipped
    clip_by: str = "norm"  # or `value`

    @classmethod
    def of(cls, trainer: Any) -> "Rule":
        return cls(
            trainer.accumulate_grad_batches,
            trainer.gradient_clip_val or 0.0,
            str(getattr(trainer.gradient_clip_algorithm, "value", trainer.gradient_clip_algorithm) or "norm"),
        )

    def clip_in_place(self, parameters: Sequence[Tensor]) -> None:
        """Clips gradients by the functions that Lightning calls."""
        if self.clip > 0:
            clip = clip_grad_norm_ if self.clip_by == "norm" else clip_grad_value_
            clip(parameters, self.clip)


def perform_step(module: LightningModule, batch: Any) -> Captured:
    """Performs a module's `training_step`, and returns all that it hands out; nothing is logged."""
    capture = Capture(module)
    arguments: list[Any] = [batch]
    if is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2):
        arguments.append(RefusingValue("training_step uses batch_idx"))
    with capture.installed(), torch.enable_grad():
        output = module.training_step(*arguments)
    extra = {key: value for key, value in output.items() if key != "loss"} if isinstance(output, Mapping) else {}
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise CannotFuseError("training_step does not return a loss that can be differentiated")
    extra = {key: value.detach() if isinstance(value, Tensor) else value for key, value in extra.items()}
    return Captured(loss, extra, capture.logs, capture.calls)


@dataclass(eq=False)
class Outcome:
    """What updates left behind: the tensors of the module and its optimizer by name, and outputs (updates, ...)."""

    tensors: dict[str, Tensor]
    outputs: list[Tensor]
    captured: Captured


def _perform(module: LightningModule, optimizer: Optimizer, rule: Rule, batch: Any, number: int) -> Captured:
    """Performs the minibatch of a number, from 1, and the update that may end with it, by plain PyTorch on copies."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    tensors, layout = flatten(batch)
    copies = [tensor.detach().clone() for tensor in tensors]  # as a step may change its minibatch
    captured = perform_step(module, rebuild(layout, copies))
    if not all(map(identical, tensors, copies)):
        raise CannotFuseError("training_step changes its minibatch in place")
    if number % rule.accumulate == 1 or rule.accumulate == 1:
        for parameter in parameters:
            parameter.grad = None
    with torch.enable_grad():
        torch.autograd.backward(captured.loss / rule.accumulate)
    captured.loss = captured.loss.detach()
    if number % rule.accumulate == 0:
        rule.clip_in_place(parameters)
        step, rates = plain_step(optimizer), [group["lr"] for group in optimizer.param_groups]
        assert step is not None
        step() if is_torchs(optimizer) else step(Closure(captured.loss / rule.accumulate, parameters))
        if [group["lr"] for group in optimizer.param_groups] != rates:
            raise CannotFuseError("the optimizer changes its learning rate")
    return captured


def rehearse(
    module: LightningModule,
    optimizer: Optimizer,
    rule: Rule,
    batch: Any,
    context: Callable[[], AbstractContextManager[Any]],
    minibatches: int,
    random_state: Tensor | None = None,
) -> tuple[Watch, dict[str, Tensor]]:
    """Performs minibatches on copies under watch; returns what they depend on, and the first loss and all gradients.

    Args:
        module: of which a copy performs its step.
        optimizer: of which a copy performs its step.
        rule: what an update does beside that.
        batch: every minibatch.
        context: returns the context in which Lightning performs a step, of its precision.
        minibatches: how many.
        random_state: of torch's generator, where the outcome of the module itself is wanted.

    Raises a CannotFuseError where they do more than tensor operations.
    """
    twin, other, copies = copied(module, optimizer)
    losses: list[Tensor] = []

    def perform() -> None:
        for number in range(1, minibatches + 1):
            losses.append(_perform(twin, other, rule, batch, number).loss)

    with guarded(random_state), unchanged(_originals(module, optimizer)), context():
        watch = Watch(perform, twin, copies)
    return watch, {"the loss": losses[0], **gradients_of(twin)}


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    """Returns the gradients that are left in a module's parameters, by name."""
    return {name: p.grad.detach() for name, p in module.named_parameters() if p.grad is not None}


def _originals(module: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    """All tensors that an update of copies must leave alone."""
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return [*module.parameters(), *module.buffers(), *kept]


class Reference:
    """Updates of copies of a module and its optimizer by plain PyTorch, at raised learning rates if these are zero."""

    def __init__(self, module: LightningModule, optimizer: Optimizer, rule: Rule, watch: Watch) -> None:
        self.module, self.optimizer, _ = copied(module, optimizer)
        self._originals = _originals(module, optimizer)
        self._rule = rule
        self._watch = watch
        self.draws = False  # whether a step draws random numbers

    def run(self, minibatches: Sequence[Any], rates: Sequence[float]) -> Outcome:
        """Performs the updates of these minibatches.

        Raises a CannotFuseError where the step does more than a compiled one could repeat.
        """
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        before, random_state = self._watch.describe(self.module), torch.get_rng_state()
        outputs: list[list[Tensor]] = []
        captured: Captured | None = None
        with self._watch.preserved(), unchanged(self._originals):
            for number, batch in enumerate(minibatches, 1):
                found = _perform(self.module, self.optimizer, self._rule, batch, number)
                if captured is not None and found.structure() != captured.structure():
                    raise CannotFuseError("training_step does something else at every update")
                captured = found
                outputs.append([tensor.clone() for tensor in found.tensors()])
            if changed := first_difference(before, self._watch.describe(self.module)):
                raise CannotFuseError(f"training_step changes {changed}")
        assert captured is not None
        self.draws = not torch.equal(random_state, torch.get_rng_state())
        return Outcome(self.tensors(), [torch.stack(each) for each in zip(*outputs, strict=True)], captured)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors of the copies by name, not copied again."""
        return named_tensors(self.module, self.optimizer)


def gradients_on_a_copy(
    module: LightningModule, optimizer: Optimizer, rule: Rule, watch: Watch, batch: Any, within: bool
) -> list[Tensor | None]:
    """Returns the gradients of all parameters, clipped, as an update with a minibatch would leave them.

    Args:
        module: of which a copy performs its step, with the random numbers that the module itself would draw.
        optimizer: whose parameters are clipped together.
        rule: what an update does beside the optimizer's step.
        watch: the module's.
        batch: the minibatch.
        within: whether gradients that earlier minibatches left are added.
    """
    with guarded(torch.get_rng_state()), watch.preserved(), unchanged(_originals(module, optimizer)):
        twin, other, _ = copied(module, optimizer)
        for parameter, copy in zip(module.parameters(), twin.parameters(), strict=True):
            copy.grad = parameter.grad.clone() if within and parameter.grad is not None else None
        tensors, layout = flatten(batch)
        loss = perform_step(twin, rebuild(layout, [tensor.detach().clone() for tensor in tensors])).loss
        with torch.enable_grad():
            torch.autograd.backward(loss / rule.accumulate)
        rule.clip_in_place([parameter for group in other.param_groups for parameter in group["params"]])
    return [parameter.grad for parameter in twin.parameters()]


def names_of(module: nn.Module) -> dict[nn.Parameter, str]:
    """Returns the names of a module's parameters."""
    return {parameter: name for name, parameter in module.named_parameters()}


def named_tensors(module: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Returns parameters, buffers and optimizer state by name, as they are."""
    tensors = {f"parameter {name}": p.detach() for name, p in module.named_parameters()}
    tensors |= {f"buffer {name}": buffer for name, buffer in trained_buffers(module).items()}
    for name, kept in state_of(optimizer, names_of(module)).items():
        tensors |= {f"{key} of {name}": value for key, value in kept.items()}
    return tensors


def places_of(module: nn.Module, names: Iterable[str], kind: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields the dictionaries in which a module's parameters or buffers stand, with their names there."""
    for name in names:
        path, _, key = name.rpartition(".")
        yield getattr(module.get_submodule(path), kind), key


def trained_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Returns the buffers of a module by name."""
    return dict(module.named_buffers())


class TracedUpdate:
    """An update as a function of tensors, which it changes in place.

    They are the state, in the order of `state()`, and of a minibatch: its own tensors, the learning rates of the
    parameter groups in float64, whether it ends an update, which averages its update moves, and tensors for all that
    `Captured.tensors` has.

    Raises a CannotFuseError where it cannot be written so.
    """

    def __init__(
        self, module: LightningModule, optimizer: Optimizer, rule: Rule, averages: Sequence[Average], layout: Layout
    ) -> None:
        self._module = module
        self._optimizer = optimizer
        self._rule = rule
        self._averages = averages
        self._layout = layout
        self._names = names_of(module)
        for group in optimizer.param_groups:
            if any(parameter not in self._names for parameter in group["params"]):
                raise CannotFuseError("the optimizer holds a parameter that is not one of the module")
        if type(optimizer).zero_grad is not Optimizer.zero_grad or "zero_grad" in vars(optimizer):
            raise CannotFuseError("the optimizer has a zero_grad of its own")
        if plain_step(optimizer) is None:  # asked of the original, as copies leave it out
            raise CannotFuseError("something is registered on the optimizer's steps, or stands for them")
        self._trained = [self._names[p] for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        if not self._trained:
            raise CannotFuseError("the optimizer holds no parameter that is trained")
        for name, tensor in named_tensors(module, optimizer).items():
            if not (is_simple(tensor.detach()) and is_dense(tensor)):
                raise CannotFuseError(f"the memory of the {name} does not hold its numbers one after another")
        several = rule.accumulate > 1
        self._sums = {name: torch.zeros_like(module.get_parameter(name)) for name in self._trained if several}
        self._structure = tree_structure(self._state())
        self._structured = str(self._structure)
        self._places = [*places_of(module, dict(module.named_parameters()), "_parameters")]
        self._places += places_of(module, dict(module.named_buffers()), "_buffers")
        self.captured: Captured | None = None  # of the last trace

    def state(self) -> list[Tensor]:
        """Returns the tensors that stay: parameters, buffers, optimizer state, sums of gradients, averages."""
        held = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        kept = [value for p in held for value in self._optimizer.state.get(p, {}).values() if isinstance(value, Tensor)]
        averages = [tensor for average in self._averages for tensors in average.state().values() for tensor in tensors]
        own = [space[name].detach() for space, name in self._places]  # as `_state` has them, and ten times as fast
        return [*own, *kept, *self._sums.values(), *averages]

    def named_state(self) -> dict[str, Tensor]:
        """Returns those of the module and the optimizer by name."""
        return named_tensors(self._module, self._optimizer)

    def description(self) -> list[Any]:
        """Returns what the compiled code depends on beside the module's attributes, as values that can be compared."""
        tensors = [(t.dtype, t.shape, t.stride()) for t in self.state()]
        rule = [self._rule.accumulate, self._rule.clip, self._rule.clip_by]
        averages = [average.description() for average in self._averages]
        return [self._structured, tensors, rule, averages, options_of(self._optimizer, self._names)]

    def has_other_parameters(self) -> bool:
        """Returns whether the module or the optimizer holds another parameter than when this was made."""
        known = set(map(id, self._names))
        held = {id(parameter) for group in self._optimizer.param_groups for parameter in group["params"]}
        return set(map(id, self._module.parameters())) != known or not held <= known

    def load_sums(self, within: bool) -> None:
        """Takes up the gradients that an update has accumulated so far, or begins with none."""
        for name, total in self._sums.items():
            gradient = self._module.get_parameter(name).grad if within else None
            total.zero_() if gradient is None else total.copy_(gradient)

    def leave_sums(self) -> None:
        """Leaves the sums of an update that is not complete in `.grad`, and removes all other gradients."""
        for parameter, name in self._names.items():
            total = self._sums.get(name)
            parameter.grad = total.clone() if total is not None else None

    def __call__(self, state: Sequence[Tensor], minibatch: Sequence[Tensor]) -> None:
        now = tree_unflatten(state, self._structure)
        count, rest = len(self._layout.tensors), iter(minibatch)
        batch = rebuild(self._layout, tensors := [next(rest) for _ in range(count)])
        versions = [tensor._version for tensor in tensors]
        rates, ends, due = next(rest), next(rest), next(rest)
        captured, gradients, buffers = self._differentiate(now, batch)
        if [tensor._version for tensor in tensors] != versions:
            raise CannotFuseError("training_step changes its minibatch in place")
        with torch.no_grad():
            for name, value in buffers.items():  # what a step assigns to a buffer, instead of changing it in place
                if value is not now["buffers"][name]:
                    now["buffers"][name].copy_(value)
            for name, total in now["sums"].items():
                if name in gradients:
                    gradients[name] = total + gradients[name]
                    total.copy_(gradients[name] * ~ends)
            self._step(now, gradients, rates, ends, captured.loss / self._rule.accumulate)
            for average, of_average, moves in zip(self._averages, now["averages"], due.unbind(), strict=True):
                values = [now["parameters"][name] for name in self._names.values()]
                average.move(of_average, values, list(now["buffers"].values()), moves & ends)
            for out, value in zip(rest, captured.tensors(), strict=True):
                out.copy_(value)
        self.captured = captured

    def _step(
        self, now: dict[str, Any], gradients: dict[str, Tensor], rates: Tensor, ends: Tensor, loss: Tensor
    ) -> None:
        """The clipping and the optimizer's step; of several minibatches only the last changes anything by it."""
        old = {**now["parameters"], **{(n, k): v for n, kept in now["optimizer"].items() for k, v in kept.items()}}
        new = old
        if self._sums:
            new = {key: value.clone() for key, value in old.items()}
        parameters = {name: new[name] for name in now["parameters"]}
        kept = {name: {key: new[name, key] for key in keys} for name, keys in now["optimizer"].items()}
        held = [self._names[p] for group in self._optimizer.param_groups for p in group["params"]]
        for name in held:
            parameters[name].grad = gradients.get(name)
        self._rule.clip_in_place([parameters[name] for name in held])
        clipped = {name: parameters[name].grad for name in held if parameters[name].grad is not None}
        own = {name: tensor for name, tensor in parameters.items() if name in held}
        traced_step(self._optimizer, self._names, own, clipped, kept, rates.unbind(), loss)
        if self._sums:
            for key, value in old.items():
                value.copy_(torch.where(ends, new[key], value))

    def _differentiate(self, now: dict[str, Any], batch: Any) -> tuple[Captured, dict[str, Tensor], dict[str, Tensor]]:
        leaves = {
            f"module.{name}": value.detach().requires_grad_() if name in self._trained else value
            for name, value in now["parameters"].items()
        }
        buffers = {f"module.{name}": value for name, value in now["buffers"].items()}
        step = _Differentiated(self._module, self._trained, self._rule.accumulate)
        found: tuple[Captured, dict[str, Tensor], dict[str, Tensor]] = functional_call(
            step, {**leaves, **buffers}, (batch,)
        )
        return found

    def _state(self) -> dict[str, Any]:
        module = self._module
        return {
            "parameters": {name: parameter.detach() for name, parameter in module.named_parameters()},
            "buffers": trained_buffers(module),
            "optimizer": state_of(self._optimizer, self._names),
            "sums": self._sums,
            "averages": [average.state() for average in self._averages],
        }


class _Differentiated(nn.Module):
    """A module's step and its gradients: differentiated here, so that what is computed again finds the same tensors."""

    def __init__(self, module: LightningModule, trained: Sequence[str], accumulate: int) -> None:
        super().__init__()
        self.module = module
        self._trained = trained
        self._accumulate = accumulate

    def forward(self, batch: Any) -> tuple[Captured, dict[str, Tensor], dict[str, Tensor]]:
        parameters = dict(self.module.named_parameters())
        recurrent = [child for child in self.module.modules() if isinstance(child, nn.RNNBase)]
        weights = [child._flat_weights for child in recurrent]
        for child in recurrent:  # they keep their weights in a list as well
            child._flat_weights = [getattr(child, name, None) for name in child._flat_weights_names]
        try:
            captured = perform_step(self.module, batch)
        finally:
            for child, own in zip(recurrent, weights, strict=True):
                child._flat_weights = own
        leaves = [parameters[name] for name in self._trained]
        with torch.enable_grad():
            found = torch.autograd.grad(captured.loss / self._accumulate, leaves, allow_unused=True)
        gradients = {name: g.detach() for name, g in zip(self._trained, found, strict=True) if g is not None}
        buffers = trained_buffers(self.module)
        if any(buffer.requires_grad for buffer in buffers.values()):
            raise CannotFuseError("training_step keeps the graph of a buffer")
        captured.loss = captured.loss.detach()
        return captured, gradients, buffers


@contextmanager
def tracing(
    update: TracedUpdate, module: LightningModule, optimizer: Optimizer, watch: Watch
) -> Iterator[TracedUpdate]:
    """Within, a traced update of copies may be traced; raises a CannotFuseError where tracing changed the copies."""
    twin, other, _ = copied(module, optimizer)
    before = watch.describe(twin)
    with guarded():
        yield TracedUpdate(twin, other, update._rule, update._averages, update._layout)
    if changed := first_difference(before, watch.describe(twin)):
        raise CannotFuseError(f"training_step changes {changed}")
