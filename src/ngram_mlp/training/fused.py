"""The fused engine: the updates of a chunk, compiled into one loop in C++."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop
from torch.func import functional_call, grad_and_value
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ngram_mlp.training.compiler import compile_loop
from ngram_mlp.training.optimizers import CannotFuseError, State, create_state, formula_of
from ngram_mlp.training.processes import processes
from ngram_mlp.training.schedules import changes_more_than_the_learning_rate, upcoming_rates
from ngram_mlp.training.trainer import longest_chunk

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
Groups = list[Tensor]  # named, since the compiler cannot trace subscripted types inside compiled code
States = list[State]
Carry = tuple[Tensor, Tensor, Groups, States, Tensors]


class FusedEngine:
    """Performs the same updates as `EagerEngine`, up to float32 rounding, and several times as fast.

    A whole chunk is one call of a compiled `while_loop`: its carry holds parameters, buffers (running statistics) and
    optimizer state, its body is `torch.func.grad_and_value` of the network and the optimizer's formula. The number of
    updates is data, so a shorter chunk needs no further compilation, and a run has the same bits however it is cut.
    Each chunk reads and writes parameters, buffers and optimizer state where they always live. What cannot be fused
    raises a CannotFuseError.
    """

    name = "fused"

    def __init__(self, network: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
        if processes() > 1:
            raise CannotFuseError("several processes have to exchange their gradients at every update")
        if changes_more_than_the_learning_rate(scheduler):
            raise CannotFuseError(f"the schedule {type(scheduler).__name__} changes the momentum, too")
        self._network = network
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._formula = formula_of(optimizer)
        name_of = {id(parameter): name for name, parameter in network.named_parameters() if parameter.requires_grad}
        groups = optimizer.param_groups
        self._names = [[name_of[id(p)] for p in group["params"] if id(p) in name_of] for group in groups]
        if not all(self._names):
            raise CannotFuseError("a parameter group holds nothing of the network that can be trained")
        self._parameters = {name: network.get_parameter(name) for names in self._names for name in names}
        self._loop: Callable[..., Carry] | None = None

    def compile(self, contexts: Tensor, targets: Tensor) -> None:
        """Compiles the loop for minibatches of these shapes, by a call that performs no update."""
        log.info("engine  fused: compiling ...")
        started = time.perf_counter()
        create_state(self._optimizer)
        self._options = self._read_options()
        rates = torch.zeros(len(contexts), len(self._names))
        self._loop = compile_loop(self._train, self._arguments(contexts, targets, rates, 0))
        log.info("engine  fused: compiled in %.1f s", time.perf_counter() - started)

    def run(self, contexts: Tensor, targets: Tensor) -> Tensor:
        assert self._loop is not None
        losses = []
        capacity = longest_chunk(contexts.shape[1])
        self._options = self._read_options()
        for first in range(0, len(contexts), capacity):
            part, target = contexts[first : first + capacity], targets[first : first + capacity]
            rates = upcoming_rates(self._optimizer, self._scheduler, len(part))
            carry = self._loop(*self._arguments(part, target, rates, len(part)))
            self._write_back(*carry[2:])
            losses.append(carry[1][: len(part)])
        return torch.cat(losses)

    def _train(self, groups: Groups, states: States, buffers: Tensors, *chunk: Tensor) -> Carry:
        """The loop that is compiled: trains on the first `updates` minibatches of the chunk."""
        contexts, targets, rates, updates = chunk
        capacity = len(contexts)

        def unfinished(update: Tensor, *_: Any) -> Tensor:
            return update < updates

        def body(update: Tensor, losses: Tensor, groups: Groups, states: States, buffers: Tensors) -> Carry:
            index: Any = update.item()
            torch._check(index >= 0)  # type: ignore[no-untyped-call]
            torch._check(index < capacity)  # type: ignore[no-untyped-call]
            minibatch, target = contexts.select(0, index), targets.select(0, index)
            differentiate = grad_and_value(self._loss, has_aux=True)
            gradients, (loss, buffers) = differentiate(self._views(groups), buffers, minibatch, target)
            losses = losses.clone()
            losses.select(0, index).copy_(loss)
            inputs = zip(groups, self._names, states, rates.select(0, index), self._options, strict=True)
            stepped = [
                self._formula(values, _flat(gradients, names), state, lr, group)
                for values, names, state, lr, group in inputs
            ]
            return update + 1, losses, [values for values, _ in stepped], [state for _, state in stepped], buffers

        losses = torch.zeros(capacity, device=contexts.device)
        start = torch.zeros((), dtype=torch.int64, device=contexts.device)
        carry: Carry = (start, losses, groups, states, buffers)
        return while_loop(unfinished, body, carry)  # type: ignore[no-any-return, no-untyped-call]

    def _loss(self, parameters: Tensors, buffers: Tensors, minibatch: Tensor, target: Tensor) -> tuple[Tensor, Tensors]:
        # The forward pass changes buffers in place: here, copies that it hands on to the next update.
        buffers = {name: buffer.clone() for name, buffer in buffers.items()}
        logits = functional_call(self._network, (parameters, buffers), (minibatch,))
        return F.cross_entropy(logits, target), buffers

    def _read_options(self) -> list[dict[str, Any]]:
        """The options of the parameter groups that are compiled in: changing one means compiling again."""
        own = {"params", "lr", "initial_lr"}
        groups = self._optimizer.param_groups
        return [{key: value for key, value in group.items() if key not in own} for group in groups]

    def _views(self, groups: Groups) -> Tensors:
        """The parameters by name, as views of the flat tensors of their groups."""
        views = {}
        for values, names in zip(groups, self._names, strict=True):
            sizes = [self._parameters[name].numel() for name in names]
            for name, part in zip(names, values.split(sizes), strict=True):  # type: ignore[no-untyped-call]
                views[name] = part.view(self._parameters[name].shape)
        return views

    def _arguments(self, contexts: Tensor, targets: Tensor, rates: Tensor, updates: int) -> tuple[Any, ...]:
        """The arguments of `_train`: parameters and optimizer state, a flat tensor per group; buffers; the chunk."""
        # A step on a flat tensor is one operation for all parameters of a group: faster to run and to compile.
        groups = [_flat(self._parameters, names).detach() for names in self._names]
        states = []
        for names in self._names:
            parts = [self._optimizer.state[self._parameters[name]] for name in names]
            state = {key: value for key, value in parts[0].items() if isinstance(value, Tensor)}
            for key, value in state.items():
                if value.dim():  # a scalar, Adam's count of steps, is the same for all
                    state[key] = torch.cat([part[key].flatten() for part in parts])
            states.append(state)
        chunk = [contexts, targets, rates.to(contexts.device, torch.float64)]
        if missing := longest_chunk(contexts.shape[1]) - len(contexts):  # the loop is compiled for one shape
            chunk = [torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) for tensor in chunk]
        return groups, states, dict(self._network.named_buffers()), *chunk, torch.tensor(updates)

    @torch.no_grad()
    def _write_back(self, groups: Groups, states: States, buffers: Tensors) -> None:
        for name, value in self._views(groups).items():
            self._parameters[name].copy_(value)
        for names, state in zip(self._names, states, strict=True):
            for key, values in state.items():
                own_values = [self._optimizer.state[self._parameters[name]][key] for name in names]
                parts = values.split([own.numel() for own in own_values]) if values.dim() else [values] * len(names)  # type: ignore[no-untyped-call]
                for own_value, part in zip(own_values, parts, strict=True):
                    own_value.copy_(part.view(own_value.shape))
        for name, value in buffers.items():
            self._network.get_buffer(name).copy_(value)


def _flat(tensors: Mapping[str, Tensor], names: list[str]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in names])
