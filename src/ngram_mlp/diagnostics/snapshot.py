"""Takes a snapshot of one update: all that passes through the network, forward and backward, without side effects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ngram_mlp.diagnostics.statistics import is_nonlinearity, log10_of_norms, log10_ratio
from ngram_mlp.models.layers import batch_norms, named_layers, named_weights

Passed = tuple[nn.Module, Tensor, Tensor]  # a layer, its input and its output


@dataclass(frozen=True)
class LayerSnapshot:
    """The input and output of a layer, (B, ..., n), and the gradient of the loss at its output."""

    module: nn.Module
    input: Tensor
    output: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class ParameterSnapshot:
    """A parameter before the update, and its gradient."""

    value: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Snapshot:
    """The forward and backward pass of the minibatch of one update with the parameters before it (promise 4)."""

    update: int
    loss: float  # cross-entropy in nats, as in `losses.npy`
    logits: Tensor  # (B, vocabulary size)
    # Layers with parameters, batch norms and non-linearities that map a tensor to a tensor, in the order of calls.
    layers: dict[str, LayerSnapshot]
    parameters: dict[str, ParameterSnapshot]  # all trained ones

    @property
    def weights(self) -> dict[str, ParameterSnapshot]:
        """The parameters of two dimensions or more: no biases and gains."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.value.dim() > 1}

    @property
    def nonlinearities(self) -> dict[str, LayerSnapshot]:
        """The non-linearities by layer (`hidden1` for `hidden1.activation`), or by full name if a layer has several."""
        layers = {name: layer for name, layer in self.layers.items() if is_nonlinearity(layer.module)}
        owners = [name.rpartition(".")[0] or name for name in layers]
        names = [owner if owners.count(owner) == 1 else name for owner, name in zip(owners, layers, strict=True)]
        return dict(zip(names, layers.values(), strict=True))


def update_ratios(snapshot: Snapshot, network: nn.Module) -> dict[str, float]:
    """Returns log10 of std(update) / std(weight) by weight, from a snapshot before the update and the network after."""
    after = dict(named_weights(network))
    return {name: log10_ratio(after[name].detach() - w.value, w.value) for name, w in snapshot.weights.items()}


def update_ratio(snapshot: Snapshot, network: nn.Module) -> float:
    """Returns log10 of norm(update) / norm(weights) over all weights, from the same arguments."""
    after = dict(named_weights(network))
    changes = [after[name].detach() - weight.value for name, weight in snapshot.weights.items()]
    return log10_of_norms(changes, [weight.value for weight in snapshot.weights.values()])


@torch.enable_grad()
def take_snapshot(network: nn.Module, contexts: Tensor, targets: Tensor, update: int = 0) -> Snapshot:
    """Returns the snapshot of a network in training mode at the minibatch (B, T), (B,) of its next update.

    Parameters, their `.grad`, buffers and the random state are unchanged afterwards; no hook stays.
    """
    norms = batch_norms(network)
    names = {module: name for name, module in named_layers(network) if name in norms or _is_layer(module)}
    in_place = [module for module in names if getattr(module, "inplace", False)]
    logits, passed = _forward(network, contexts, names, in_place)
    if in_place:
        as_it_is = _forward(network, contexts, names, [])
        if not logits.equal(as_it_is[0]):  # other layers read what such a layer changes
            logits, passed = as_it_is
    loss = F.cross_entropy(logits, targets)
    parameters = {name: p for name, p in named_weights(network) if p.requires_grad}
    wanted = [*(output for _, _, output in passed.values() if output.requires_grad), *parameters.values()]
    gradients = iter(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))
    layers = {
        name: LayerSnapshot(module, x.detach(), y.detach(), next(gradients) if y.requires_grad else torch.zeros_like(y))
        for name, (module, x, y) in passed.items()
    }
    seen = {name: ParameterSnapshot(p.detach().clone(), next(gradients)) for name, p in parameters.items()}
    return Snapshot(update, loss.item(), logits.detach(), layers, seen)


def _forward(
    network: nn.Module, contexts: Tensor, names: Mapping[nn.Module, str], in_place: Sequence[nn.Module]
) -> tuple[Tensor, dict[str, Passed]]:
    """Returns the logits, and by name what passed the layers; those that work in place are given a copy."""
    passed: dict[str, Passed] = {}
    given: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not (args and isinstance(args[0], Tensor)):
            return None
        given[module], *others = args
        return given[module].clone(), *others

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            passed[names[module]] = module, given.get(module, args[0]), output

    handles = [module.register_forward_hook(note) for module in names]
    handles += [module.register_forward_pre_hook(keep) for module in in_place]
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    devices = [contexts.device] if contexts.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            return functional_call(network, buffers, (contexts,)), passed
    finally:
        for handle in handles:
            handle.remove()


def _is_layer(module: nn.Module) -> bool:
    return is_nonlinearity(module) or next(module.parameters(recurse=False), None) is not None
