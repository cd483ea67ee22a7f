"""A snapshot of one update: everything that goes through the network, forward and backward, without side effects."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from ngram_mlp.diagnostics.statistics import is_nonlinearity, log10_ratio


@dataclass(frozen=True)
class LayerSnapshot:
    """What went through a layer: its input and output, (B, n), and the gradient of the loss at its output."""

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
    """The forward and backward pass of the minibatch of one update with the parameters before it (promise 4).

    Args:
        update: which one.
        loss: its cross-entropy, as `losses.npy` has it.
        logits: (B, vocabulary size).
        layers: every layer that has parameters or is a non-linearity, by name, in the order of the forward pass.
        parameters: every parameter that is trained, by name.
    """

    update: int
    loss: float
    logits: Tensor
    layers: dict[str, LayerSnapshot]
    parameters: dict[str, ParameterSnapshot]

    @property
    def weights(self) -> dict[str, ParameterSnapshot]:
        """The parameters of two dimensions or more; biases and gains are none."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.value.dim() > 1}

    @property
    def nonlinearities(self) -> dict[str, LayerSnapshot]:
        """The non-linearities among the layers, by the name of the hidden layer that they belong to."""
        return {_owner(name): layer for name, layer in self.layers.items() if is_nonlinearity(layer.module)}


def update_ratios(snapshot: Snapshot, network: nn.Module) -> dict[str, float]:
    """By weight, the log10 of std(update) / std(weight), from the snapshot before the update and the network after it."""
    after = dict(network.named_parameters())
    return {name: log10_ratio(after[name].detach() - w.value, w.value) for name, w in snapshot.weights.items()}


@torch.enable_grad()
def take_snapshot(network: nn.Module, contexts: Tensor, targets: Tensor, update: int = 0) -> Snapshot:
    """The snapshot of a network in training mode at the minibatch (B, T), (B,) that it is about to be trained on.

    Parameters, their `.grad`, buffers and the random state are afterwards what they were before; no hook stays.
    """
    passed: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}
    handles = [_watch(module, name, passed) for name, module in network.named_modules() if _is_layer(module)]
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    devices = [contexts.device] if contexts.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            logits = functional_call(network, buffers, (contexts,))
            loss = F.cross_entropy(logits, targets)
    finally:
        for handle in handles:
            handle.remove()
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    outputs = [output if output.requires_grad else None for _, _, output in passed.values()]
    wanted = [output for output in outputs if output is not None]
    gradients = iter(
        torch.autograd.grad(loss, [*wanted, *parameters.values()], allow_unused=True, materialize_grads=True)
    )
    layers = {}
    for (name, (module, x, y)), output in zip(passed.items(), outputs, strict=True):
        gradient = torch.zeros_like(y) if output is None else next(gradients)
        layers[name] = LayerSnapshot(module, x.detach(), y.detach(), gradient)
    seen = {name: ParameterSnapshot(p.detach().clone(), next(gradients)) for name, p in parameters.items()}
    return Snapshot(update, loss.item(), logits.detach(), layers, seen)


def _is_layer(module: nn.Module) -> bool:
    own_parameters = next(module.parameters(recurse=False), None) is not None
    return own_parameters or is_nonlinearity(module)


def _watch(module: nn.Module, name: str, passed: dict[str, tuple[nn.Module, Tensor, Tensor]]) -> RemovableHandle:
    """Lets a module note what passes through it."""

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        passed[name] = (module, args[0], output)

    return module.register_forward_hook(note)


def _owner(name: str) -> str:
    """`hidden1` for `hidden1.activation`; a name of one part stays."""
    return name.rpartition(".")[0] or name
