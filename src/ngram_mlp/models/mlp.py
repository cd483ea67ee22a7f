"""Defines the n-gram MLP, with and without batch norm, with configurable depth and initialization."""

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
    UNIFORM_BIAS,
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
    """An embedding, hidden layers (linear, optional norm, non-linearity), and a linear output layer.

    With one hidden layer it is the network of Bengio et al. 2003 as in the notebooks; with `direct` that of its section
    2, y = b + W x + U tanh(d + H x). The defaults are those of cell 4 of notebook 002.

    Its layers are `embedding`, `flatten`, `hidden1`, `hidden2`, ... (each `linear`, `norm`, `activation`) and `output`
    (`linear`, `norm`), whose parameters are drawn in this order. With `direct`, all layers after `flatten` are in
    `sum`, whose last layer is `direct`.

    Args:
        vocabulary: the tokens in the order of their ids, as in `Tokenizer`.
        block_size: the number of tokens the network sees.
        n_embd: the dimensions of a token's embedding.
        n_hidden: the units of a hidden layer.
        n_layers: the number of hidden layers.
        activation: a non-linearity of torch.nn by name: Tanh, ReLU, GELU, ...
        residual: whether to add an identity shortcut around each hidden layer of equal input and output width.
        direct: whether a linear layer also connects the embeddings to the output directly.
        norm: the normalization between a linear layer and its non-linearity, or its kind; for batch norm use
            `BatchNormMLP`.
        initialization: how each parameter is drawn.
        **training: optimizer and lr_scheduler, as in `LanguageModel`.
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
        require_at_least(1, n_embd=n_embd, n_hidden=n_hidden, n_layers=n_layers)
        norm, init = Normalization.of(norm), Initialization.of(initialization)
        vocab_size, gain = len(vocabulary), gain_of(activation_layer(activation))
        layers = OrderedDict[str, nn.Module](
            embedding=embedding(vocab_size, n_embd, init.embedding),  # (B, T, n_embd)
            flatten=nn.Flatten(),  # (B, T * n_embd)
        )
        fan_in = n_inputs = block_size * n_embd
        to_output = OrderedDict[str, nn.Module]()
        for number in range(1, n_layers + 1):
            hidden = hidden_layers(fan_in, n_hidden, activation, norm, init, gain)
            container = Residual if residual and fan_in == n_hidden else nn.Sequential
            to_output[f"hidden{number}"] = container(hidden)  # (B, n_hidden)
            fan_in = n_hidden
        to_output["output"] = output_layer(fan_in, vocab_size, norm, init, gain)  # (B, vocab_size)
        if direct:
            to_output["direct"] = linear(n_inputs, vocab_size, init.output_weight, NO_BIAS, gain)
            to_output = OrderedDict[str, nn.Module](sum=Sum(to_output))
        self.network = nn.Sequential(layers | to_output)


class BatchNormMLP(MLP):
    """The network of `MLP` with batch norm between each hidden linear layer and its non-linearity.

    The defaults are those of cell 11 of notebook 002: batch norm written by hand, with running statistics.

    Args:
        vocabulary: the tokens in the order of their ids, as in `Tokenizer`.
        block_size: the number of tokens the network sees.
        batch_norm: the options of batch norm, or its kind alone.
        **others: as in `MLP`, without `norm`.
    """

    not_hyperparameters = (*MLP.not_hyperparameters, "norm")  # `batch_norm` is

    def __init__(
        self,
        vocabulary: Vocabulary,
        block_size: int,
        batch_norm: BatchNormalization = BatchNormalization(),
        **others: Any,
    ) -> None:
        norm: Any = BatchNormalization.of(batch_norm)  # which `MLP` takes from here alone
        super().__init__(vocabulary, block_size, norm=norm, **others)


def hidden_layers(
    fan_in: int, n_hidden: int, activation_name: str, norm: Norm, init: Initialization, gain: float
) -> OrderedDict[str, nn.Module]:
    """Returns a hidden layer's parts, (..., fan_in) to (..., n_hidden): `linear`, optional `norm`, `activation`."""
    auto_bias = NO_BIAS if norm.subtracts_bias else UNIFORM_BIAS
    bias = auto_bias if init.hidden_bias == "auto" else init.hidden_bias
    layers = OrderedDict[str, nn.Module](linear=linear(fan_in, n_hidden, init.hidden_weight, bias, gain))
    if (layer := norm.hidden(n_hidden)) is not None:
        layers["norm"] = layer
    layers["activation"] = activation_layer(activation_name)
    return layers


def output_layer(fan_in: int, vocab_size: int, norm: Norm, init: Initialization, gain: float) -> nn.Sequential:
    """Returns the output layer from (B, fan_in) to logits (B, vocab_size): `linear`, optional `norm`."""
    layers = OrderedDict[str, nn.Module](linear=linear(fan_in, vocab_size, init.output_weight, init.output_bias, gain))
    if (layer := norm.logits(vocab_size)) is not None:
        layers["norm"] = layer
    return nn.Sequential(layers)


def activation_layer(name: str) -> nn.Module:
    """Returns the non-linearity `torch.nn.NAME`; raises a UserError unless it maps each unit to one value.

    RReLU draws random numbers, so inspecting a network would change its training (promise 4).
    """
    error = UserError("is not an elementwise non-linearity of torch.nn; try Tanh, ReLU or GELU", activation=name)
    if name not in torch_activations.__all__ or name == "RReLU":
        raise error
    try:
        module: nn.Module = getattr(torch_activations, name)()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Softmax warns before it is rejected
            probe, alone = module(torch.zeros(2, 4)), module(torch.zeros(2, 1))
    except (TypeError, ValueError, RuntimeError):
        raise error from None
    if not (isinstance(probe, Tensor) and probe.shape == (2, 4) and probe[0, 0] == alone[0, 0]):
        raise error
    return module


class Sum(nn.Sequential):
    """Applies all layers but the last in turn, and adds the last layer's output for the same input."""

    def forward(self, x: Tensor) -> Tensor:
        *layers, direct = self
        y: Tensor = direct(x)
        hidden = x
        for layer in layers:
            hidden = layer(hidden)
        return y + hidden


class Residual(nn.Sequential):
    """Adds the input to the output of its layers, y = x + f(x), both (B, n); the gradient reaches x undiminished.

    It is the shortcut of He et al. 2015, arXiv:1512.03385, and of notebook 000's notes.
    """

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return x + y
