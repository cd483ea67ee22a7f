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
from torch.utils._pytree import tree_map

from ngram_mlp.training.compiler import compile_loop
from ngram_mlp.training.optimizers import CannotFuseError, State, create_state, formula_of
from ngram_mlp.training.processes import processes
from ngram_mlp.training.schedules import changes_more_than_the_learning_rate, upcoming_rates
from ngram_mlp.training.trainer import longest_chunk
from ngram_mlp.training.updates import PLAIN, UpdateRule

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
Groups = list[Tensor]  # named, since the compiler cannot trace subscripted types inside compiled code
States = list[State]
Averages = list[tuple[Groups, Tensors]]  # parameters and buffers of each moving average
Carry = tuple[Tensor, Tensor, Groups, States, Tensors, Groups, Averages]


class FusedEngine:
    """Performs the same updates as `EagerEngine`, up to float32 rounding, and several times as fast.

    A whole chunk is one call of a compiled `while_loop`: its carry holds parameters, buffers (running statistics) and
    optimizer state, its body is `torch.func.grad_and_value` of the network and the optimizer's formula, for one
    minibatch. The number of minibatches is data, so a shorter chunk needs no further compilation, and a run has the
    same bits however it is cut. Each chunk reads and writes parameters, buffers, optimizer state and averages where
    they always live. What cannot be fused raises a CannotFuseError.
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
        shares = torch.zeros(len(contexts), len(self._rule.averages))
        self._loop = compile_loop(self._train, self._arguments(contexts, targets, rates, shares, 0))
        log.info("engine  fused: compiled in %.1f s", time.perf_counter() - started)

    def run(self, contexts: Tensor, targets: Tensor, first: int) -> Tensor:
        assert self._loop is not None
        losses = []
        self._options = self._read_options()
        capacity, each = self._capacity(contexts), self._rule.minibatches
        for part, target in zip(contexts.split(capacity), targets.split(capacity), strict=True):  # type: ignore[no-untyped-call]
            updates = len(part) // each
            rates = upcoming_rates(self._optimizer, self._scheduler, updates)
            shares = [average.shares(first, updates) for average in self._rule.averages]
            at_minibatches = torch.zeros(len(part), len(shares))
            if shares:
                at_minibatches[each - 1 :: each] = torch.stack(shares, dim=1)
            arguments = self._arguments(part, target, rates.repeat_interleave(each, 0), at_minibatches, len(part))
            carry = self._loop(*arguments)
            self._write_back(*carry[2:])
            losses.append(carry[1][: len(part)])
            for average, moved in zip(self._rule.averages, shares, strict=True):
                average.moved(first, moved)
            first += updates
        self.lr = float(rates[-1, 0])
        stacked = torch.cat(losses)
        return stacked if each == 1 else stacked.view(-1, each).mean(1)

    def _train(
        self, groups: Groups, states: States, buffers: Tensors, sums: Groups, averages: Averages, *chunk: Tensor
    ) -> Carry:
        """The loop that is compiled: trains on the first `count` minibatches of the chunk."""
        contexts, targets, rates, shares, count = chunk

        def unfinished(number: Tensor, *_: Any) -> Tensor:
            return number < count

        def body(number: Tensor, losses: Tensor, *carried: Any) -> Carry:
            index: Any = number.item()
            torch._check(index >= 0)  # type: ignore[no-untyped-call]
            torch._check(index < len(contexts))  # type: ignore[no-untyped-call]
            at_index = [tensor.select(0, index) for tensor in (contexts, targets, rates, shares)]
            loss, after = self._train_on(number, *carried, *at_index)
            losses = losses.clone()
            losses.select(0, index).copy_(loss)
            return number + 1, losses, *after

        losses = torch.zeros(len(contexts), device=contexts.device)
        start = torch.zeros((), dtype=torch.int64, device=contexts.device)
        carry: Carry = (start, losses, groups, states, buffers, sums, averages)
        return while_loop(unfinished, body, carry)  # type: ignore[no-any-return, no-untyped-call]

    def _train_on(
        self,
        number: Tensor,
        groups: Groups,
        states: States,
        buffers: Tensors,
        sums: Groups,
        averages: Averages,
        contexts: Tensor,
        targets: Tensor,
        rates: Tensor,
        shares: Tensor,
    ) -> tuple[Tensor, tuple[Groups, States, Tensors, Groups, Averages]]:
        """The loss of minibatch `number` of a chunk, and all that is carried on to the next one."""
        differentiate = grad_and_value(self._loss, has_aux=True)
        by_name, (loss, buffers) = differentiate(self._views(groups), buffers, contexts, targets)
        gradients, each = [_flat(by_name, names) for names in self._names], self._rule.minibatches
        if each == 1:
            groups, states = self._step(groups, states, self._rule.clipped(gradients), rates)
        else:  # the minibatches before an update's last one change nothing but the sums
            sums = [before + gradient / each for before, gradient in zip(sums, gradients, strict=True)]
            ends_update = (number + 1) % each == 0
            stepped = self._step(groups, states, self._rule.clipped(sums), rates)
            groups, states = _where(ends_update, stepped, (groups, states))
            sums = [gradient * ~ends_update for gradient in sums]
        if averages:
            averages = self._averaged(averages, groups, buffers, shares)
        return loss, (groups, states, buffers, sums, averages)

    def _step(self, groups: Groups, states: States, gradients: Groups, rates: Tensor) -> tuple[Groups, States]:
        """Parameters and optimizer state after a step."""
        inputs = zip(groups, gradients, states, rates, self._options, strict=True)
        stepped = [self._formula(*values) for values in inputs]
        return [values for values, _ in stepped], [state for _, state in stepped]

    def _averaged(self, averages: Averages, groups: Groups, buffers: Tensors, shares: Tensor) -> Averages:
        """The averages, moved towards parameters and buffers by their shares; a share of 0 leaves one as it is."""
        moved: Averages = []
        for (old, old_buffers), average, share in zip(averages, self._rule.averages, shares.unbind(0), strict=True):
            of_buffers = share if average.of_buffers else share.sign()
            new = [_mixed(value, towards, share) for value, towards in zip(old, groups, strict=True)]
            moved.append((new, {name: _mixed(value, buffers[name], of_buffers) for name, value in old_buffers.items()}))
        return moved

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

    def _arguments(
        self, contexts: Tensor, targets: Tensor, rates: Tensor, shares: Tensor, count: int
    ) -> tuple[Any, ...]:
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
        each = self._rule.minibatches
        sums = [torch.zeros_like(values) for values in groups] if each > 1 else []
        averages = []
        for average in self._rule.averages:
            of_average = {name: average.network.get_parameter(name) for name in self._parameters}
            flat = [_flat(of_average, names).detach() for names in self._names]
            averages.append((flat, dict(average.network.named_buffers())))
        chunk = [contexts, targets, rates.to(contexts.device, torch.float64), shares.to(contexts.device)]
        if missing := self._capacity(contexts) - len(contexts):  # the loop is compiled for one shape
            chunk = [torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) for tensor in chunk]
        return groups, states, dict(self._network.named_buffers()), sums, averages, *chunk, torch.tensor(count)

    def _capacity(self, contexts: Tensor) -> int:
        """The minibatches for which the loop is compiled: so many whole updates."""
        each = self._rule.minibatches
        return max(1, longest_chunk(contexts.shape[1]) // each) * each

    @torch.no_grad()
    def _write_back(self, groups: Groups, states: States, buffers: Tensors, _: Groups, averages: Averages) -> None:
        self._write(self._network, groups, buffers)
        for names, state in zip(self._names, states, strict=True):
            for key, values in state.items():
                own_values = [self._optimizer.state[self._parameters[name]][key] for name in names]
                parts = values.split([own.numel() for own in own_values]) if values.dim() else [values] * len(names)  # type: ignore[no-untyped-call]
                for own_value, part in zip(own_values, parts, strict=True):
                    own_value.copy_(part.view(own_value.shape))
        for average, of_average in zip(self._rule.averages, averages, strict=True):
            self._write(average.network, *of_average)

    def _write(self, network: nn.Module, groups: Groups, buffers: Tensors) -> None:
        for name, value in self._views(groups).items():
            network.get_parameter(name).copy_(value)
        for name, value in buffers.items():
            network.get_buffer(name).copy_(value)


def _flat(tensors: Mapping[str, Tensor], names: list[str]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in names])


def _where(condition: Tensor, new: Any, old: Any) -> Any:
    """Nested tensors, all new or all old."""
    return tree_map(lambda one, other: torch.where(condition, one, other), new, old)


def _mixed(value: Tensor, towards: Tensor, share: Tensor) -> Tensor:
    return ((1 - share) * value + share * towards).to(value.dtype)
