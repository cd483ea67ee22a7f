"""The n-gram MLP with batch normalization."""

from typing import Any

from ngram_mlp.models.language_model import LanguageModel
from ngram_mlp.models.layers import BatchNormalization, Initialization
from ngram_mlp.models.mlp import mlp_network


class BatchNormMLP(LanguageModel):
    """The network of `MLP` with batch norm between each hidden linear layer and its non-linearity.

    The defaults are those of cell 11 of notebook 002: batch norm written by hand, with running statistics.

    Args:
        characters: the vocabulary; a character's id is its place in the string.
        block_size: how many characters the network sees.
        n_embd: the dimensions of a character's embedding.
        n_hidden: the units of a hidden layer.
        n_layers: the hidden layers.
        activation: a non-linearity of torch.nn by name: Tanh, ReLU, GELU, ...
        residual: whether an identity shortcut leads around each hidden layer whose input is as wide as its output.
        batch_norm: by hand or torch's own, and its options, or its kind alone.
        initialization: how each parameter is drawn.
        **training: optimizer and lr_scheduler, as `LanguageModel` has them.
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
        batch_norm: BatchNormalization = BatchNormalization(),
        initialization: Initialization = Initialization(),
        **training: Any,
    ) -> None:
        super().__init__(characters, block_size, **training)
        sizes = (len(characters), block_size, n_embd, n_hidden, n_layers)
        options = (activation, residual, BatchNormalization.of(batch_norm), Initialization.of(initialization))
        self.network = mlp_network(*sizes, *options)
