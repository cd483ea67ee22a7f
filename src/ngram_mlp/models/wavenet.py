"""Defines the hierarchical network that fuses a context pair by pair, with batch norm."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from ngram_mlp.data.tokenizer import Vocabulary
from ngram_mlp.models.language_model import LanguageModel
from ngram_mlp.models.layers import BatchNormalization, Initialization, embedding, gain_of
from ngram_mlp.models.mlp import activation_layer, hidden_layers, output_layer
from runlab import UserError, require_at_least


class WaveNet(LanguageModel):
    """Fuses neighbours in each hidden layer, so that T tokens become one vector after log2(T) layers.

    A layer joins consecutive pairs, (B, T, C) to (B, T / 2, 2 C), and applies the same linear layer, batch norm and
    non-linearity to each pair. It is the tree of van den Oord et al. 2016, arXiv:1609.03499, without gates, shortcuts
    and dilated convolutions, and with the sizes of the lecture after the notebooks (makemore, part 5).

    Args:
        vocabulary: the tokens in the order of their ids, as in `Tokenizer`.
        block_size: the number of tokens the network sees: a power of two.
        n_embd: the dimensions of a token's embedding.
        n_hidden: the units of a hidden layer.
        batch_norm: the options of batch norm, or its kind alone.
        activation: a non-linearity of torch.nn by name: Tanh, ReLU, GELU, ...
        initialization: how each parameter is drawn.
        **training: optimizer and lr_scheduler, as in `LanguageModel`.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        block_size: int,
        n_embd: int = 24,
        n_hidden: int = 128,
        batch_norm: BatchNormalization = BatchNormalization(),
        activation: str = "Tanh",
        initialization: Initialization = Initialization(),
        **training: Any,
    ) -> None:
        super().__init__(vocabulary, block_size, **training)
        if block_size < 2 or block_size & (block_size - 1):
            raise UserError("give a power of two, such as 8, since each layer joins pairs", block_size=block_size)
        require_at_least(1, n_embd=n_embd, n_hidden=n_hidden)
        norm, init = BatchNormalization.of(batch_norm), Initialization.of(initialization)
        gain = gain_of(activation_layer(activation))

        layers = OrderedDict[str, nn.Module](embedding=embedding(len(vocabulary), n_embd, init.embedding))  # (B, T, C)
        width = n_embd
        for number in range(1, block_size.bit_length()):
            hidden = hidden_layers(2 * width, n_hidden, activation, norm, init, gain)
            # (B, T, C) to (B, T / 2, n_hidden), finally to (B, n_hidden)
            layers[f"hidden{number}"] = nn.Sequential(OrderedDict(pairs=Pairs(), **hidden))
            width = n_hidden
        layers["output"] = output_layer(width, len(vocabulary), norm, init, gain)  # (B, vocabulary size)
        self.network = nn.Sequential(layers)


class Pairs(nn.Module):
    """Joins consecutive pairs of positions: (B, T, C) to (B, T / 2, 2 C), and the last pair, (B, 2, C), to (B, 2 C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1, 2 * x.shape[2]).squeeze(1)
