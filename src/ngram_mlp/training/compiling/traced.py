"""An update as a function of tensors alone, which the compiler can trace."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_structure, tree_unflatten

from ngram_mlp.training.compiling.structure import structure_of
from ngram_mlp.training.optimizers import CannotFuseError, create_state, formula_of
from ngram_mlp.training.updates import UpdateRule

Tensors = dict[str, Tensor]


class TracedUpdate:
    """What `EagerEngine` does with a minibatch, on tensors that it is given and changes in place.

    They are those that stay, in the order of `still()`, and of a minibatch: contexts (B, T), targets (B,), the
    learning rates (parameter groups,) in float64, the shares (averages,) of the weights in each moving average,
    whether the minibatch is the last one of its update, and a scalar for its loss.
    """

    def __init__(self, network: nn.Module, optimizer: Optimizer, rule: UpdateRule) -> None:
        self._network = network
        self._optimizer = optimizer
        self._rule = rule
        self._formula = formula_of(optimizer)
        name_of = {id(parameter): name for name, parameter in network.named_parameters() if parameter.requires_grad}
        groups = optimizer.param_groups
        self._names = [[name_of[id(p)] for p in group["params"] if id(p) in name_of] for group in groups]
        if not all(self._names):
            raise CannotFuseError("a parameter group holds nothing of the network that can be trained")
        trained = [name for names in self._names for name in names]
        create_state(optimizer)
        several = rule.minibatches > 1
        self._sums = {name: torch.zeros_like(network.get_parameter(name)) for name in trained if several}
        self._structure = tree_structure(self._state())

    def still(self) -> list[Tensor]:
        """The tensors that stay: parameters, buffers, optimizer state, sums of gradients, averages."""
        return tree_leaves(self._state())

    def description(self) -> list[Any]:
        """All that the compiled code of this update depends on, as plain values that can be compared."""
        tensors = [(str(t.dtype), list(t.shape), list(t.stride())) for t in self.still()]
        rule = self._rule
        averages = [average.of_buffers for average in rule.averages]
        of_rule = [rule.minibatches, rule.clip, str(rule.clip_by), averages]
        optimizer = [type(self._optimizer).__name__, self._names, [list(o.items()) for o in self.options()]]
        return [structure_of(self._network), tensors, of_rule, optimizer]

    def options(self) -> list[dict[str, Any]]:
        """The options of the parameter groups that are compiled in."""
        own = {"params", "lr", "initial_lr"}
        groups = self._optimizer.param_groups
        return [{key: value for key, value in group.items() if key not in own} for group in groups]

    def __call__(self, still: Sequence[Tensor], minibatch: Sequence[Tensor]) -> None:
        state = tree_unflatten(still, self._structure)
        contexts, targets, rates, shares, ends, loss_out = minibatch
        parameters, buffers, sums = state["parameters"], state["buffers"], state["sums"]
        loss, gradients = self._differentiate(parameters, buffers, contexts, targets)
        for name, total in sums.items():
            gradients[name] = total + gradients[name] / self._rule.minibatches
            total.copy_(gradients[name] * ~ends)
        gradients = dict(zip(gradients, self._rule.clipped(list(gradients.values())), strict=True))
        for names, rate, options in zip(self._names, rates.unbind(), self.options(), strict=True):
            for name in names:
                before = parameters[name], state["optimizer"][name]
                value, kept = self._formula(before[0], gradients[name], before[1], rate, options)
                for old, new in [(before[0], value), *((before[1][key], kept[key]) for key in kept)]:
                    # The minibatches before an update's last one change nothing but the sums.
                    old.copy_(torch.where(ends, new, old) if sums else new)
        for average, share, rule in zip(state["averages"], shares.unbind(), self._rule.averages, strict=True):
            for name, value in average["parameters"].items():
                value.copy_(_mixed(value, parameters[name], share))
            for name, value in average["buffers"].items():
                value.copy_(_mixed(value, buffers[name], share if rule.of_buffers else share.sign()))
        loss_out.copy_(loss)

    def _state(self) -> dict[str, Any]:
        network = self._network
        optimizer = {}
        for names in self._names:
            for name in names:
                kept = self._optimizer.state[network.get_parameter(name)]
                optimizer[name] = {key: value for key, value in kept.items() if isinstance(value, Tensor)}
        averages = [_tensors_of(average.network) for average in self._rule.averages]
        return {**_tensors_of(network), "optimizer": optimizer, "sums": self._sums, "averages": averages}

    def _differentiate(
        self, parameters: Tensors, buffers: Tensors, contexts: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensors]:
        """The loss of a minibatch, and its gradients by name; the forward pass changes buffers in place."""
        names = [name for group in self._names for name in group]
        leaves = {name: parameters[name].detach().requires_grad_() for name in names}
        with torch.enable_grad():
            logits = functional_call(self._network, ({**parameters, **leaves}, buffers), (contexts,))
            loss = F.cross_entropy(logits, targets)
            gradients = torch.autograd.grad(loss, list(leaves.values()))
        return loss.detach(), dict(zip(names, gradients, strict=True))


def _tensors_of(network: nn.Module) -> dict[str, Tensors]:
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return {"parameters": parameters, "buffers": dict(network.named_buffers())}


def _mixed(value: Tensor, towards: Tensor, share: Tensor) -> Tensor:
    return ((1 - share) * value + share * towards).to(value.dtype)
