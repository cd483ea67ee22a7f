"""The n-gram MLP with batch normalization written by hand."""

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR

from ngram_mlp.engines import EngineName
from ngram_mlp.errors import require_at_least
from ngram_mlp.layers import BatchNorm, Initializer, embedding, linear
from ngram_mlp.models.language_model import LanguageModel

__all__ = ["BatchNormMLP"]


class BatchNormMLP(LanguageModel):
    """Embedding, linear without bias, batch norm, tanh, linear: the network of cell 11 of notebook 002.

    It is drawn as `MLP` is, without the hidden bias, which batch norm would subtract again.

    Args:
        characters: the vocabulary; a character's id is its place in the string.
        block_size: how many characters the network sees.
        n_embd: the dimensions of a character's embedding.
        n_hidden: the units of the hidden layer.
        momentum: the weight of a minibatch in batch norm's running statistics.
        eps: what batch norm adds to the standard deviation.
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
        momentum: float = 0.001,
        eps: float = 1e-5,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        lr_scheduler: LRSchedulerCallable = lambda optimizer: MultiStepLR(optimizer, milestones=[100_000], gamma=0.1),
        engine: EngineName = "auto",
    ) -> None:
        super().__init__(characters, block_size, optimizer, lr_scheduler, engine)
        require_at_least(1, {"--model.n_embd": n_embd, "--model.n_hidden": n_hidden})
        self.network = nn.Sequential(
            embedding(len(characters), n_embd, Initializer("normal")),  # (B, T, n_embd)
            nn.Flatten(),  # (B, T * n_embd)
            linear(block_size * n_embd, n_hidden, Initializer("normal", "fan_in", gain=5 / 3), bias=None),
            BatchNorm(n_hidden, momentum, eps),
            nn.Tanh(),  # (B, n_hidden)
            linear(n_hidden, len(characters), Initializer("normal", "xavier"), Initializer("uniform", "fan_out")),
        )
