"""Performs updates on copies as plain PyTorch, the reference for compiled updates.

An update is the module's own `training_step`, clipping, and the optimizer's own `step`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from multistep._capture import Capture, Captured
from multistep._copies import copied
from multistep._describe import first_difference, is_tensor
from multistep._errors import CannotFuseError
from multistep._guards import RefusingValue, guarded, identical, unchanged
from multistep._optimizers import Closure, is_torchs, plain_step, state_of
from multistep._origins import count_as_own
from multistep._reach import first_leaf, held_in, in_common, sharing
from multistep._tree import flatten, rebuild
from multistep._user_state import UserState
from multistep._watch import Watch


@dataclass(frozen=True)
class Rule:
    """The trainer's options for an update besides the optimizer's step: accumulation and clipping."""

    accumulate: int = 1  # minibatches in an update, whose gradients are summed
    clip: float = 0.0  # maximum norm of all gradients together, or absolute value of each; 0: no clipping
    clip_by: str = "norm"  # or `value`

    @classmethod
    def of(cls, trainer: Any) -> "Rule":
        return cls(
            trainer.accumulate_grad_batches,
            trainer.gradient_clip_val or 0.0,
            str(getattr(trainer.gradient_clip_algorithm, "value", trainer.gradient_clip_algorithm) or "norm"),
        )

    def clip_in_place(self, parameters: Sequence[Tensor]) -> None:
        """Clips gradients with the functions that Lightning calls."""
        if self.clip > 0:
            clip = clip_grad_norm_ if self.clip_by == "norm" else clip_grad_value_
            clip(parameters, self.clip)


def perform_step(module: LightningModule, batch: Any) -> Captured:
    """Performs a module's `training_step` without logging, and returns all its outputs."""
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
    others = [value for value in extra.values() if not isinstance(value, Tensor)]
    if any(isinstance(value, Tensor) for value in held_in(others)):
        raise CannotFuseError("training_step returns tensors within other values")
    extra = {key: value.detach() if isinstance(value, Tensor) else value for key, value in extra.items()}
    return Captured(loss, extra, capture.logs, capture.calls)


@dataclass(eq=False)
class Outcome:
    """The results of updates: tensors of the module and its optimizer by name, and outputs, each (minibatches, ...)."""

    tensors: dict[str, Tensor]
    outputs: list[Tensor]
    captured: Captured
    renewed: set[str] = field(default_factory=set)  # buffers and state that were replaced, not changed in place


def _perform(module: LightningModule, optimizer: Optimizer, rule: Rule, batch: Any, number: int) -> Captured:
    """Performs minibatch `number`, counted from 1, and the update that it may end, as plain PyTorch on copies."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    tensors, layout = flatten(batch)
    copies = [tensor.detach().clone() for tensor in tensors]  # because a step may change its minibatch
    captured = perform_step(module, rebuild(layout, copies))
    if not all(map(identical, tensors, copies)) or any(map(vars, copies)):
        raise CannotFuseError("training_step changes its minibatch in place")
    captured.requires = any(copy.requires_grad for copy in copies)
    nodes = _nodes_of(captured.loss)
    captured.nodes = len(nodes)
    captured.low = any(x.dtype.is_floating_point and x.dtype.itemsize < 4 for n in nodes for x in n._input_metadata)
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


def _nodes_of(loss: Tensor) -> set[Any]:
    """Returns the operations in the autograd graph of a loss."""
    seen: set[Any] = set()
    left = [loss.grad_fn]
    while left:
        if (node := left.pop()) is not None and node not in seen:
            seen.add(node)
            left += [following for following, _ in node.next_functions]
    return seen


def perform_on_copies(
    module: LightningModule,
    optimizer: Optimizer,
    rule: Rule,
    batch: Any,
    context: Callable[[], AbstractContextManager[Any]],
    minibatches: int,
    state: UserState,
    random_state: Tensor | None = None,
) -> tuple[Watch, dict[str, Tensor]]:
    """Performs minibatches on copies under watch; returns the watch, and the first loss and all gradients by name.

    Args:
        module: the module to copy.
        optimizer: the optimizer to copy.
        rule: the trainer's options for an update.
        batch: used as every minibatch.
        context: returns the precision context in which Lightning performs a step.
        minibatches: the number of minibatches.
        state: what must not change.
        random_state: the state of torch's generator, if the results must be those of the module itself.

    Raises a CannotFuseError if they do more than tensor operations.
    """
    losses: list[Tensor] = []
    with state.kept(), guarded(random_state), unchanged(_originals(module, optimizer)), context():
        twin, other, copies = copied(module, optimizer)

        def perform() -> None:
            for number in range(1, minibatches + 1):
                with state.kept() if number == 1 < minibatches else nullcontext():  # the next may undo its change
                    losses.append(_perform(twin, other, rule, batch, number).loss)

        watch = Watch(perform, twin, copies, in_common([twin, other], [module, optimizer]))
    if shared := sharing(watch.places(module), module, _originals(module, optimizer)):
        raise CannotFuseError(f"{shared} shares memory with parameters, buffers or optimizer state")
    if leaf := first_leaf(watch.places(module), module):
        raise CannotFuseError(f"{leaf} requires a gradient, and is not a parameter of the module")
    return watch, {"the loss": losses[0], **gradients_of(twin)}


def state_of_users(module: nn.Module, optimizer: Optimizer) -> UserState:
    """Returns the state that a trial must not change, besides the tensors that an update changes."""
    count_as_own(type(module))
    count_as_own(type(optimizer))
    roots = {"what the module holds": module, "what the optimizer holds": optimizer}
    return UserState(roots, {*map(id, _originals(module, optimizer))})


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    """Returns the gradients in a module's parameters, by name."""
    return {name: p.grad.detach() for name, p in module.named_parameters() if p.grad is not None}


def _originals(module: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    """Returns all tensors that an update of copies must not change."""
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return [*module.parameters(), *module.buffers(), *kept]


class Reference:
    """Performs updates on copies of a module and its optimizer, as plain PyTorch."""

    def __init__(self, module: LightningModule, optimizer: Optimizer, rule: Rule, watch: Watch) -> None:
        self.module, self.optimizer, _ = copied(module, optimizer)
        self._described = watch.describe(module)
        self._originals = _originals(module, optimizer)
        self._rule = rule
        self._watch = watch
        self.draws = False  # whether a step draws random numbers

    def parameters(self) -> dict[str, Tensor]:
        """Returns the parameters, named as in `Outcome.tensors`."""
        return {f"parameter {name}": parameter.detach() for name, parameter in self.module.named_parameters()}

    def run(self, minibatches: Sequence[Any], rates: Sequence[Sequence[float]]) -> Outcome:
        """Performs the updates of these minibatches, each at the learning rates of the parameter groups.

        Raises a CannotFuseError if the step does something that compiled code could not repeat.
        """
        before, random_state = self._watch.describe(self.module), torch.get_rng_state()
        plain = [{k: v for k, v in d.items() if not is_tensor(v)} for d in (self._described, before)]
        if other := first_difference(*plain):  # tensors are copied exactly, except for their graphs
            raise CannotFuseError(f"{other} differs in a copy of the module")
        outputs: list[list[Tensor]] = []
        captured: Captured | None = None
        old = named_tensors(self.module, self.optimizer)
        with self._watch.preserved(), unchanged(self._originals):
            for number, batch in enumerate(minibatches, 1):
                for group, rate in zip(self.optimizer.param_groups, rates[number - 1], strict=True):
                    group["lr"] = rate
                found = _perform(self.module, self.optimizer, self._rule, batch, number)
                if captured is not None and found.structure() != captured.structure():
                    raise CannotFuseError("training_step does not do the same at every update")
                captured = found
                outputs.append([tensor.clone() for tensor in found.tensors()])
            if changed := first_difference(before, self._watch.describe(self.module)):
                raise CannotFuseError(f"training_step changes {changed}")
        assert captured is not None
        self.draws = not torch.equal(random_state, torch.get_rng_state())
        tensors = named_tensors(self.module, self.optimizer)
        renewed = {name for name, x in tensors.items() if not name.startswith("parameter ") and x is not old.get(name)}
        return Outcome(tensors, [torch.stack(each) for each in zip(*outputs, strict=True)], captured, renewed)


def gradients_on_a_copy(
    module: LightningModule, optimizer: Optimizer, rule: Rule, watch: Watch, batch: Any, within: bool
) -> list[Tensor | None]:
    """Returns the clipped gradients of all parameters, as an update with a minibatch would leave them.

    Args:
        module: its copy performs the step, with the random numbers that the module itself would draw.
        optimizer: its parameters are clipped together.
        rule: the trainer's options for an update.
        watch: the watch of the module.
        within: whether to add the gradients that earlier minibatches left.
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


def without_optimizer(module: nn.Module, optimizer: Optimizer) -> str | None:
    """Returns the name of a parameter that requires a gradient and that the optimizer does not have, or None."""
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return next((n for n, p in module.named_parameters() if p.requires_grad and id(p) not in own), None)


def named_tensors(module: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Returns parameters, buffers and optimizer state by name, without copying them."""
    tensors = {f"parameter {name}": p.detach() for name, p in module.named_parameters()}
    tensors |= {f"buffer {name}": buffer for name, buffer in trained_buffers(module).items()}
    for name, kept in state_of(optimizer, names_of(module)).items():
        tensors |= {f"{key} of {name}": value for key, value in kept.items()}
    return tensors


def trained_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Returns the buffers of a module by name."""
    return dict(module.named_buffers())
