"""Expresses one update as a function of tensors, which the compiler can trace: step, clipping, optimizer, averages."""

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer
from torch.utils._pytree import tree_structure, tree_unflatten

from multistep._averaging import Average
from multistep._capture import Captured
from multistep._copies import copied
from multistep._describe import first_difference
from multistep._errors import CannotFuseError
from multistep._guards import guarded
from multistep._optimizers import options_of, plain_step, state_of, traced_step
from multistep._step import Rule, named_tensors, names_of, perform_step, trained_buffers
from multistep._tree import Layout, is_dense, is_simple, overlapping, rebuild
from multistep._watch import Watch


def places_of(module: nn.Module, names: Iterable[str], kind: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields the dictionaries that hold a module's parameters or buffers, with their keys there."""
    for name in names:
        path, _, key = name.rpartition(".")
        yield getattr(module.get_submodule(path), kind), key


def _parts_of(module: nn.Module) -> list[tuple[str, Any]]:
    """Returns a module's submodules and parameters by path; one in several places is listed at each."""
    children = module.named_modules(remove_duplicate=False)
    return [*children, *module.named_parameters(remove_duplicate=False)]


def _buffers_of(module: nn.Module) -> list[tuple[str, int]]:
    """Returns a module's buffers by path, each with the index of its first occurrence; steps may replace tensors."""
    found = [*module.named_buffers(remove_duplicate=False)]
    first = {id(buffer): number for number, (_, buffer) in reversed([*enumerate(found)])}
    return [(name, first[id(buffer)]) for name, buffer in found]


class TracedUpdate:
    """Performs an update as a function of tensors, which it changes in place.

    Its arguments are the state, in the order of `state()`, and the tensors of a minibatch: its own tensors, the
    learning rates of the parameter groups in float64, whether it ends an update, which averages the update moves, and
    output tensors in the order of `Captured.tensors`.

    Raises a CannotFuseError if the update cannot be expressed in this way.
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
                raise CannotFuseError("the optimizer holds a parameter that does not belong to the module")
        if any(key not in self._names for key in optimizer.state):
            raise CannotFuseError("the optimizer keeps state that belongs to no parameter of the module")
        if type(optimizer).zero_grad is not Optimizer.zero_grad or "zero_grad" in vars(optimizer):
            raise CannotFuseError("the optimizer overrides zero_grad")
        if plain_step(optimizer) is None:  # asked of the original, as copies drop it
            raise CannotFuseError("the optimizer's step has hooks or was replaced")
        self._trained = [self._names[p] for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self._differentiable = {name for name, p in module.named_parameters() if p.requires_grad}  # optimized or not
        if not self._trained:
            raise CannotFuseError("the optimizer holds no parameter that is trained")
        for name, tensor in named_tensors(module, optimizer).items():
            if not (is_simple(tensor.detach()) and is_dense(tensor)):
                raise CannotFuseError(f"the {name} is not dense in memory, or is lazily conjugated or negated")
            # Compiled code rounds only the last of several results in a row.
            if tensor.is_floating_point() and tensor.dtype.itemsize < 4:
                why = "plain PyTorch rounds every result, compiled code only the last"
                raise CannotFuseError(f"the {name} is in 16 bits; {why}")
        if overlap := overlapping(named_tensors(module, optimizer)):
            raise CannotFuseError(f"the {' and the '.join(overlap)} share memory")
        several = rule.accumulate > 1
        self._sums = {name: torch.zeros_like(module.get_parameter(name)) for name in self._trained if several}
        self._structure = tree_structure(self._state())
        self._structured = str(self._structure)
        self._places = [*places_of(module, dict(module.named_parameters()), "_parameters")]
        self._places += places_of(module, dict(module.named_buffers()), "_buffers")
        self._parts, self._buffers = _parts_of(module), _buffers_of(module)
        self.captured: Captured | None = None  # of the last trace

    def state(self) -> list[Tensor]:
        """Returns the lasting tensors: parameters, buffers, optimizer state, sums of gradients, averages."""
        held = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        kept = [value for p in held for value in self._optimizer.state.get(p, {}).values() if isinstance(value, Tensor)]
        averages = [tensor for average in self._averages for tensors in average.state().values() for tensor in tensors]
        own = [space[name].detach() for space, name in self._places]  # in the order of `_state`, and ten times as fast
        return [*own, *kept, *self._sums.values(), *averages]

    def renew(self, names: set[str]) -> None:
        """Replaces the buffers and optimizer state of these names by copies, as the step itself replaces them.

        Code that has kept the old tensors keeps their values.
        """
        if not names:
            return
        own = [name for name, _ in self._module.named_buffers()]
        places = places_of(self._module, own, "_buffers")
        buffers = [(f"buffer {name}", *place) for name, place in zip(own, places, strict=True)]
        kept = [
            (f"{key} of {name}", self._optimizer.state[parameter], key)
            for parameter, name in self._names.items()
            for key in self._optimizer.state.get(parameter, {})
        ]
        for name, space, key in [*buffers, *kept]:
            if name in names:
                space[key] = space[key].clone()

    def named_state(self) -> dict[str, Tensor]:
        """Returns the tensors of the module and the optimizer by name."""
        return named_tensors(self._module, self._optimizer)

    def description(self) -> list[Any]:
        """Returns what the compiled code depends on besides the module's attributes, as comparable values."""
        tensors = [(t.dtype, t.shape, t.stride()) for t in self.state()]
        rule = [self._rule.accumulate, self._rule.clip, self._rule.clip_by]
        averages = [average.description() for average in self._averages]
        return [self._structured, tensors, rule, averages, options_of(self._optimizer, self._names)]

    def has_other_parts(self) -> bool:
        """Returns whether the module or optimizer has other parts than at construction, or tensors that overlap."""
        held = {id(parameter) for group in self._optimizer.param_groups for parameter in group["params"]}
        parts = _parts_of(self._module)
        same = len(parts) == len(self._parts) and all(
            name == other and one is two for (name, one), (other, two) in zip(parts, self._parts, strict=True)
        )
        same = same and _buffers_of(self._module) == self._buffers
        return (
            not (same and held <= set(map(id, self._names))) or overlapping(dict(enumerate(self.state()))) is not None
        )

    def load_sums(self, within: bool) -> None:
        """Loads the gradients accumulated so far if the minibatch is `within` an update, else zeros."""
        for name, total in self._sums.items():
            gradient = self._module.get_parameter(name).grad if within else None
            total.zero_() if gradient is None else total.copy_(gradient)

    def leave_sums(self, names: Container[str]) -> None:
        """Stores the sums of an incomplete update in `.grad` of these parameters, and clears `.grad` of all others."""
        for parameter, name in self._names.items():
            total = self._sums.get(name) if name in names else None
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
            for name, value in buffers.items():  # values that the step assigned to buffers, not in place
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
        """Clips gradients and performs the optimizer's step; only the last minibatch of an update changes anything."""
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
            f"module.{name}": value.detach().requires_grad_() if name in self._differentiable else value
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
    """Performs a module's step and differentiates it inside `forward`, so that recomputation finds the same tensors."""

    def __init__(self, module: LightningModule, trained: Sequence[str], accumulate: int) -> None:
        super().__init__()
        self.module = module
        self._trained = trained
        self._accumulate = accumulate

    def forward(self, batch: Any) -> tuple[Captured, dict[str, Tensor], dict[str, Tensor]]:
        parameters = dict(self.module.named_parameters())
        recurrent = [child for child in self.module.modules() if isinstance(child, nn.RNNBase)]
        weights = [child._flat_weights for child in recurrent]
        for child in recurrent:  # recurrent layers also keep their weights in a list
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
            raise CannotFuseError("training_step leaves a buffer attached to the autograd graph")
        captured.loss = captured.loss.detach()
        return captured, gradients, buffers


@contextmanager
def tracing(
    update: TracedUpdate, module: LightningModule, optimizer: Optimizer, watch: Watch
) -> Iterator[TracedUpdate]:
    """Yields a traced update of copies for tracing; raises a CannotFuseError if tracing changes the copies."""
    twin, other, _ = copied(module, optimizer)
    before = watch.describe(twin)
    with guarded():
        yield TracedUpdate(twin, other, update._rule, update._averages, update._layout)
    if changed := first_difference(before, watch.describe(twin)):
        raise CannotFuseError(f"training_step changes {changed}")
