"""The n-gram MLP without normalization."""

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR

from ngram_mlp.engines import EngineName
from ngram_mlp.errors import require_at_least
from ngram_mlp.layers import Initializer, embedding, linear
from ngram_mlp.models.language_model import LanguageModel

__all__ = ["MLP"]


class MLP(LanguageModel):
    """Embedding, linear, tanh, linear: the network of cell 4 of notebook 002, after Bengio et al. 2003.

    The hidden weight is drawn with the tanh gain 5/3 over sqrt(fan_in), the output weight after Xavier, the biases
    uniform over sqrt(their size).

    Args:
        characters: the vocabulary; a character's id is its place in the string.
        block_size: how many characters the network sees.
        n_embd: the dimensions of a character's embedding.
        n_hidden: the units of the hidden layer.
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
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        lr_scheduler: LRSchedulerCallable = lambda optimizer: MultiStepLR(optimizer, milestones=[100_000], gamma=0.1),
        engine: EngineName = "auto",
    ) -> None:
        super().__init__(characters, block_size, optimizer, lr_scheduler, engine)
        require_at_least(1, {"--model.n_embd": n_embd, "--model.n_hidden": n_hidden})
        uniform = Initializer("uniform", "fan_out")
        self.network = nn.Sequential(
            embedding(len(characters), n_embd, Initializer("normal")),  # (B, T, n_embd)
            nn.Flatten(),  # (B, T * n_embd)
            linear(block_size * n_embd, n_hidden, Initializer("normal", "fan_in", gain=5 / 3), uniform),
            nn.Tanh(),  # (B, n_hidden)
            linear(n_hidden, len(characters), Initializer("normal", "xavier"), uniform),  # (B, vocabulary size)
        )
