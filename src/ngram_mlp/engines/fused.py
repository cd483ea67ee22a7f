"""The fused engine: the updates of a block, compiled into one loop in C++."""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop
from torch.func import functional_call, grad_and_value
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ngram_mlp.data.blocks import longest_block
from ngram_mlp.engines.compiler import compile_loop
from ngram_mlp.engines.formulas import CannotFuseError, State, create_state, formula_of

__all__ = ["FusedEngine"]

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
States = dict[str, State]  # named, since the compiler does not trace subscripted types in the functions it compiles
Carry = tuple[Tensor, Tensor, Tensors, Tensors, States]


class FusedEngine:
    """Performs the same updates as `EagerEngine`, several times as fast, to float32 rounding.

    A whole block is one call of a compiled `while_loop`: its carry holds parameters, buffers (running statistics) and
    optimizer state, its body is `torch.func.grad_and_value` of the network and the optimizer's formula. The number of
    updates is data, so that a block cut short needs no further compilation, and a run has the same bits however it is
    cut. Parameters, buffers and optimizer state live where they always do; each block starts from them and writes
    them back.

    Args:
        network: maps contexts (B, T) to logits (B, vocabulary size).
        optimizer: SGD, Adam or AdamW.
        scheduler: stepped once after each update.

    Raises:
        CannotFuseError: the optimizer or the schedule has no functional form.
    """

    name = "fused"

    def __init__(self, network: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
        if _changes_more_than_the_learning_rate(scheduler):
            raise CannotFuseError(f"the schedule {type(scheduler).__name__} changes the momentum, too")
        self._network = network
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._formula = formula_of(optimizer)
        group_of = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
        self._parameters = {name: p for name, p in network.named_parameters() if id(p) in group_of and p.requires_grad}
        self._groups = {name: group_of[id(p)] for name, p in self._parameters.items()}
        self._loop: Callable[..., Carry] | None = None

    def compile(self, contexts: Tensor, targets: Tensor) -> None:
        """Compiles the loop for blocks with minibatches like these, contexts (K, B, T) and targets (K, B).

        Nothing is trained: the loop is called for no update at all.

        Raises:
            CannotFuseError: the network or this machine does not allow it.
        """
        log.info("engine  fused: compiling ...")
        started = time.perf_counter()
        create_state(self._optimizer)
        padded = self._pad(contexts, targets, torch.zeros(len(contexts), len(self._optimizer.param_groups)))
        self._loop = compile_loop(self._train, (*self._state(), *padded, torch.tensor(0)))
        log.info("engine  fused: compiled in %.1f s", time.perf_counter() - started)

    def run(self, contexts: Tensor, targets: Tensor) -> Tensor:
        """Performs K updates on contexts (K, B, T) and targets (K, B); returns their losses, shape (K,)."""
        assert self._loop is not None
        losses = []
        capacity = longest_block(contexts.shape[1])
        for part, target in zip(contexts.split(capacity), targets.split(capacity), strict=True):
            padded = self._pad(part, target, self._learning_rates(len(part)))
            _, part_losses, *state = self._loop(*self._state(), *padded, torch.tensor(len(part)))
            self._write_back(*state)
            losses.append(part_losses[: len(part)])
        return torch.cat(losses)

    def _train(
        self,
        parameters: Tensors,
        buffers: Tensors,
        states: States,
        contexts: Tensor,
        targets: Tensor,
        rates: Tensor,
        updates: Tensor,
    ) -> Carry:
        """The loop that is compiled: the first `updates` minibatches of the block."""
        capacity = len(contexts)

        def unfinished(update: Tensor, *_: Any) -> Tensor:
            return update < updates

        def body(update: Tensor, losses: Tensor, parameters: Tensors, buffers: Tensors, states: States) -> Carry:
            index: Any = update.item()
            torch._check(index >= 0)
            torch._check(index < capacity)
            minibatch, target, lr = contexts.select(0, index), targets.select(0, index), rates.select(0, index)
            gradients, (loss, buffers) = grad_and_value(self._loss, has_aux=True)(parameters, buffers, minibatch, target)
            losses = losses.clone()
            losses.select(0, index).copy_(loss)
            parameters, states = self._step(parameters, gradients, states, lr)
            return update + 1, losses, parameters, buffers, states

        losses = torch.zeros(capacity, device=contexts.device)
        start = torch.zeros((), dtype=torch.int64, device=contexts.device)
        carry: Carry = while_loop(unfinished, body, (start, losses, parameters, buffers, states))
        return carry

    def _loss(self, parameters: Tensors, buffers: Tensors, minibatch: Tensor, target: Tensor) -> tuple[Tensor, Tensors]:
        # Buffers are changed in place or replaced by the forward pass; both show in the dictionary handed over.
        tensors = {**parameters, **{name: buffer.clone() for name, buffer in buffers.items()}}
        logits = functional_call(self._network, tensors, (minibatch,))
        return F.cross_entropy(logits, target), {name: tensors[name] for name in buffers}

    def _step(
        self, parameters: Tensors, gradients: Tensors, states: States, lr: Tensor
    ) -> tuple[Tensors, States]:
        stepped = {
            name: self._formula(
                parameter,
                gradients[name],
                states[name],
                lr[self._groups[name]],
                self._optimizer.param_groups[self._groups[name]],
            )
            for name, parameter in parameters.items()
        }
        return {name: new for name, (new, _) in stepped.items()}, {name: state for name, (_, state) in stepped.items()}

    def _state(self) -> tuple[Tensors, Tensors, States]:
        parameters = {name: parameter.detach() for name, parameter in self._parameters.items()}
        states = {
            name: {key: value for key, value in self._optimizer.state[p].items() if isinstance(value, Tensor)}
            for name, p in self._parameters.items()
        }
        return parameters, dict(self._network.named_buffers()), states

    @torch.no_grad()
    def _write_back(self, parameters: Tensors, buffers: Tensors, states: States) -> None:
        own_parameters, own_buffers, own_states = self._state()
        for own, new in ((own_parameters, parameters), (own_buffers, buffers)):
            for name, value in new.items():
                own[name].copy_(value)
        for name, state in states.items():
            for key, value in state.items():
                own_states[name][key].copy_(value)

    def _learning_rates(self, updates: int) -> Tensor:
        """The learning rates of the next updates, shape (updates, parameter groups); the schedule is stepped past them."""
        self._optimizer._opt_called = True  # type: ignore[attr-defined]  # what a schedule checks before its first step
        rates = []
        for _ in range(updates):
            rates.append([group["lr"] for group in self._optimizer.param_groups])
            self._scheduler.step()
        return torch.tensor(rates, dtype=torch.float64)

    def _pad(self, contexts: Tensor, targets: Tensor, rates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The block with room for the longest one, as the loop is compiled for one shape."""
        missing = longest_block(contexts.shape[1]) - len(contexts)
        return tuple(  # type: ignore[return-value]
            torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) if missing else tensor
            for tensor in (contexts, targets, rates.to(contexts.device, torch.float64))
        )


def _changes_more_than_the_learning_rate(scheduler: Any) -> bool:
    inner = getattr(scheduler, "_schedulers", [])
    return getattr(scheduler, "cycle_momentum", False) or any(map(_changes_more_than_the_learning_rate, inner))
