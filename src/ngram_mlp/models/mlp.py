"""The n-gram MLP, with the normalization, the depth and the initialization that an experiment asks for."""

from collections import OrderedDict

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR

from ngram_mlp.engines import EngineName
from ngram_mlp.errors import require_at_least
from ngram_mlp.layers import (
    NO_BIAS,
    Initialization,
    Normalization,
    Residual,
    embedding,
    gain_of,
    linear,
)
from ngram_mlp.layers import (
    activation as activation_layer,
)
from ngram_mlp.models.language_model import LanguageModel

__all__ = ["MLP"]


class MLP(LanguageModel):
    """Embedding, hidden layers of linear, normalization and non-linearity, and a linear output layer.

    With one hidden layer it is the network of Bengio et al. 2003 as the notebooks have it; the defaults are those of
    cell 4 of notebook 002, without normalization. `network` is a `torch.nn.Sequential` of `embedding`, `flatten`,
    `hidden1`, `hidden2`, ... (each of `linear`, `norm`, `activation`) and `output` (`linear`, `norm`); their
    parameters are drawn in this order.

    Args:
        characters: the vocabulary; a character's id is its place in the string.
        block_size: how many characters the network sees.
        n_embd: the dimensions of a character's embedding.
        n_hidden: the units of a hidden layer.
        n_layers: the hidden layers.
        activation: a non-linearity of torch.nn by name: Tanh, ReLU, GELU, ...
        residual: whether an identity shortcut leads around each hidden layer whose input is as wide as its output.
        norm: the normalization between a linear layer and its non-linearity.
        initialization: how each parameter is drawn.
        optimizer: builds the optimizer from the parameters.
        lr_scheduler: builds the learning-rate schedule, stepped after every update.
        engine: `eager`, `fused` or `auto`, as `LanguageModel` says.
    """

    def __init__(
        self,
        characters: str,
        block_size: int,
        n_embd: int = 10,
        n_hidden: int = 200,
        n_layers: int = 1,
        activation: str = "Tanh",
        residual: bool = False,
        norm: Normalization = Normalization(),
        initialization: Initialization = Initialization(),
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        lr_scheduler: LRSchedulerCallable = lambda optimizer: MultiStepLR(optimizer, milestones=[100_000], gamma=0.1),
        engine: EngineName = "auto",
    ) -> None:
        super().__init__(characters, block_size, optimizer, lr_scheduler, engine)
        sizes = {"--model.n_embd": n_embd, "--model.n_hidden": n_hidden, "--model.n_layers": n_layers}
        require_at_least(1, sizes)
        # A checkpoint carries plain dictionaries.
        norm = Normalization(**norm) if isinstance(norm, dict) else norm
        init = Initialization(**initialization) if isinstance(initialization, dict) else initialization
        gain = gain_of(activation_layer(activation))
        bias = init.hidden_bias
        if bias == "auto":
            bias = NO_BIAS if norm.subtracts_bias else Initialization.output_bias

        layers = OrderedDict[str, nn.Module](
            embedding=embedding(len(characters), n_embd, init.embedding),  # (B, T, n_embd)
            flatten=nn.Flatten(),  # (B, T * n_embd)
        )
        fan_in = block_size * n_embd
        for number in range(1, n_layers + 1):
            hidden = OrderedDict[str, nn.Module](linear=linear(fan_in, n_hidden, init.hidden_weight, bias, gain))
            if norm.kind != "none":
                hidden["norm"] = norm.layer(n_hidden, norm.gain)
            hidden["activation"] = activation_layer(activation)
            container = Residual if residual and fan_in == n_hidden else nn.Sequential
            layers[f"hidden{number}"] = container(hidden)  # (B, n_hidden)
            fan_in = n_hidden
        output = linear(fan_in, len(characters), init.output_weight, init.output_bias, gain)
        layers["output"] = nn.Sequential(OrderedDict[str, nn.Module](linear=output))  # (B, vocabulary size)
        if norm.on_logits:
            layers["output"].add_module("norm", norm.layer(len(characters), norm.logits_gain))
        self.network = nn.Sequential(layers)
