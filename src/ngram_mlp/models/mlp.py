"""The n-gram MLP, with and without batch norm, and with the depth and initialization that an experiment asks for."""

import warnings
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import activation as torch_activations

from ngram_mlp.data.tokenizer import Vocabulary
from ngram_mlp.models.language_model import LanguageModel
from ngram_mlp.models.layers import (
    NO_BIAS,
    BatchNormalization,
    Initialization,
    Norm,
    Normalization,
    embedding,
    gain_of,
    linear,
)
from runlab import UserError, require_at_least


class MLP(LanguageModel):
    """An embedding, hidden layers (linear, perhaps a norm, non-linearity), and a linear output layer.

    With one hidden layer it is the network of Bengio et al. 2003 as the notebooks have it; the defaults are those of
    cell 4 of notebook 002.

    Args:
        vocabulary: the tokens by their ids, as `Tokenizer` has them.
        block_size: how many tokens the network sees.
        n_embd: the dimensions of a token's embedding.
        n_hidden: the units of a hidden layer.
        n_layers: the hidden layers.
        activation: a non-linearity of torch.nn by name: Tanh, ReLU, GELU, ...
        residual: whether an identity shortcut leads around each hidden layer whose input is as wide as its output.
        direct: whether the embeddings also reach the output by a linear layer of their own.
        norm: the normalization between a linear layer and its non-linearity, or its kind alone; for batch norm take
            `BatchNormMLP`.
        initialization: how each parameter is drawn.
        **training: optimizer and lr_scheduler, as `LanguageModel` has them.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        block_size: int,
        n_embd: int = 10,
        n_hidden: int = 200,
        n_layers: int = 1,
        activation: str = "Tanh",
        residual: bool = False,
        direct: bool = False,
        norm: Normalization = Normalization(),
        initialization: Initialization = Initialization(),
        **training: Any,
    ) -> None:
        super().__init__(vocabulary, block_size, **training)
        sizes = (len(vocabulary), block_size, n_embd, n_hidden, n_layers)
        options = (activation, residual, direct, Normalization.of(norm), Initialization.of(initialization))
        self.network = mlp_network(*sizes, *options)


class BatchNormMLP(LanguageModel):
    """The network of `MLP` with batch norm between each hidden linear layer and its non-linearity.

    The defaults are those of cell 11 of notebook 002: batch norm written by hand, with running statistics.

    Args:
        vocabulary: the tokens by their ids, as `Tokenizer` has them.
        block_size: how many tokens the network sees.
        n_embd: the dimensions of a token's embedding.
        n_hidden: the units of a hidden layer.
        n_layers: the hidden layers.
        activation: a non-linearity of torch.nn by name: Tanh, ReLU, GELU, ...
        residual: whether an identity shortcut leads around each hidden layer whose input is as wide as its output.
        direct: whether the embeddings also reach the output by a linear layer of their own.
        batch_norm: by hand or torch's own, and its options, or its kind alone.
        initialization: how each parameter is drawn.
        **training: optimizer and lr_scheduler, as `LanguageModel` has them.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        block_size: int,
        n_embd: int = 10,
        n_hidden: int = 200,
        n_layers: int = 1,
        activation: str = "Tanh",
        residual: bool = False,
        direct: bool = False,
        batch_norm: BatchNormalization = BatchNormalization(),
        initialization: Initialization = Initialization(),
        **training: Any,
    ) -> None:
        super().__init__(vocabulary, block_size, **training)
        sizes = (len(vocabulary), block_size, n_embd, n_hidden, n_layers)
        options = (activation, residual, direct, BatchNormalization.of(batch_norm), Initialization.of(initialization))
        self.network = mlp_network(*sizes, *options)


def mlp_network(
    vocab_size: int,
    block_size: int,
    n_embd: int,
    n_hidden: int,
    n_layers: int,
    activation_name: str,
    residual: bool,
    direct: bool,
    norm: Norm,
    init: Initialization,
) -> nn.Sequential:
    """A network from contexts (B, T) to logits (B, vocab_size).

    Its layers are `embedding`, `flatten`, `hidden1`, `hidden2`, ... (each of `linear`, `norm`, `activation`) and
    `output` (`linear`, `norm`); their parameters are drawn in this order. With `direct`, all behind `flatten` are in
    `sum`, whose last layer is `direct`: with one hidden layer, the network of Bengio et al. 2003, section 2,
    y = b + W x + U tanh(d + H x).
    """
    require_at_least(1, n_embd=n_embd, n_hidden=n_hidden, n_layers=n_layers)
    gain = gain_of(activation_layer(activation_name))
    layers = OrderedDict[str, nn.Module](
        embedding=embedding(vocab_size, n_embd, init.embedding),  # (B, T, n_embd)
        flatten=nn.Flatten(),  # (B, T * n_embd)
    )
    fan_in = width = block_size * n_embd
    to_output = OrderedDict[str, nn.Module]()
    for number in range(1, n_layers + 1):
        hidden = hidden_layers(fan_in, n_hidden, activation_name, norm, init, gain)
        container = Residual if residual and fan_in == n_hidden else nn.Sequential
        to_output[f"hidden{number}"] = container(hidden)  # (B, n_hidden)
        fan_in = n_hidden
    to_output["output"] = output_layer(fan_in, vocab_size, norm, init, gain)  # (B, vocab_size)
    if direct:
        to_output["direct"] = linear(width, vocab_size, init.output_weight, NO_BIAS, gain)
        return nn.Sequential(OrderedDict[str, nn.Module](**layers, sum=Sum(to_output)))
    return nn.Sequential(layers | to_output)


def hidden_layers(
    fan_in: int, n_hidden: int, activation_name: str, norm: Norm, init: Initialization, gain: float
) -> OrderedDict[str, nn.Module]:
    """The parts of a hidden layer from (..., fan_in) to (..., n_hidden): `linear`, perhaps `norm`, `activation`."""
    auto_bias = NO_BIAS if norm.subtracts_bias else Initialization.output_bias
    bias = auto_bias if init.hidden_bias == "auto" else init.hidden_bias
    layers = OrderedDict[str, nn.Module](linear=linear(fan_in, n_hidden, init.hidden_weight, bias, gain))
    if (layer := norm.hidden(n_hidden)) is not None:
        layers["norm"] = layer
    layers["activation"] = activation_layer(activation_name)
    return layers


def output_layer(fan_in: int, vocab_size: int, norm: Norm, init: Initialization, gain: float) -> nn.Sequential:
    """The output layer from (B, fan_in) to logits (B, vocab_size): `linear`, perhaps `norm`."""
    layers = OrderedDict[str, nn.Module](linear=linear(fan_in, vocab_size, init.output_weight, init.output_bias, gain))
    if (layer := norm.logits(vocab_size)) is not None:
        layers["norm"] = layer
    return nn.Sequential(layers)


def activation_layer(name: str) -> nn.Module:
    """The non-linearity `torch.nn.NAME`; a UserError where there is none that maps each unit to one value."""
    error = UserError("is no non-linearity of torch.nn for single units; try Tanh, ReLU or GELU", activation=name)
    if name not in torch_activations.__all__:
        raise error
    try:
        module: nn.Module = getattr(torch_activations, name)()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Softmax warns before it is refused
            probe, alone = module(torch.zeros(2, 4)), module(torch.zeros(2, 1))
    except (TypeError, ValueError, RuntimeError):
        raise error from None
    if not (isinstance(probe, Tensor) and probe.shape == (2, 4) and probe[0, 0] == alone[0, 0]):
        raise error
    return module


class Sum(nn.Sequential):
    """Its layers in turn, but for the last, whose output for the same input is added."""

    def forward(self, x: Tensor) -> Tensor:
        *layers, direct = self
        y: Tensor = direct(x)
        hidden = x
        for layer in layers:
            hidden = layer(hidden)
        return y + hidden


class Residual(nn.Sequential):
    """Its layers in turn, with the input added to their output: y = x + f(x), both (B, n), so that the gradient reaches
    x undiminished, whatever f does to it: the shortcut of He et al. 2015, arXiv:1512.03385, and notebook 000's notes.
    """

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return x + y
