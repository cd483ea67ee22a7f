"""What counting achieves: the n-gram models of a corpus, against which a network is judged."""

import torch
from torch import Tensor

from ngram_mlp.data import NGrams

LARGEST_TABLE = 2**26  # of counts
NAMES = ("unigrams", "bigrams", "trigrams")


def counted_losses(train: NGrams, split: NGrams, vocab_size: int) -> dict[str, float]:
    """The mean cross-entropy in nats on a split of the models that count in the training split, by name.

    They are those of single characters, pairs and triples with add-one smoothing: a character's probability is
    (count + 1) / (count of its context + vocab_size). Models that need longer contexts than there are, or too large a
    table, are left out.
    """
    losses = {}
    for length, name in enumerate(NAMES):
        if length <= train.contexts.shape[1] and vocab_size ** (length + 1) <= LARGEST_TABLE:
            losses[name] = _loss(train, split, length, vocab_size)
    return losses


def _loss(train: NGrams, split: NGrams, length: int, vocab_size: int) -> float:
    pairs = _numbers(train.contexts, length, vocab_size) * vocab_size + train.targets.long()
    counts = torch.bincount(pairs, minlength=vocab_size ** (length + 1)).view(-1, vocab_size)
    contexts = _numbers(split.contexts, length, vocab_size)
    probabilities = (counts[contexts, split.targets.long()] + 1) / (counts.sum(1)[contexts] + vocab_size)
    return float(-probabilities.log().mean())


def _numbers(contexts: Tensor, length: int, vocab_size: int) -> Tensor:
    """Each context's last `length` characters as one number, (N,)."""
    places = vocab_size ** torch.arange(length)
    return (contexts[:, contexts.shape[1] - length :].long() * places).sum(1)
