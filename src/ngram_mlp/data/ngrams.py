"""Words to contexts and targets, and the split of words into training, validation and test."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ngram_mlp.data.vocabulary import BOUNDARY, Vocabulary
from ngram_mlp.errors import UserError

LARGEST_CONTEXTS = 8 * 2**30


@dataclass(frozen=True)
class NGrams:
    """Every context of a list of words, shape (N, block_size), with the character that follows it, shape (N,).

    Ids are stored in the vocabulary's narrow integer type; cast to int64 what is used as an index.
    """

    contexts: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The notebooks' split: shuffled by Python's `random.Random(42)`, then 80 % training, 10 % validation, 10 % test.

    Raises:
        UserError: a split would hold no word.
    """
    shuffled = list(words)
    random.Random(42).shuffle(shuffled)
    n1, n2 = int(0.8 * len(shuffled)), int(0.9 * len(shuffled))
    train, val, test = shuffled[:n1], shuffled[n1:n2], shuffled[n2:]
    if not (train and val and test):
        raise UserError(
            f"the corpus holds {len(words)} word(s), too few to split into training, validation and test (80/10/10 %); "
            "give a file of at least 6 words, better thousands"
        )
    return train, val, test


def build_ngrams(words: Sequence[str], vocabulary: Vocabulary, block_size: int) -> NGrams:
    """The contexts and targets of `words`, in order: what the notebooks' `build_dataset` computes word by word.

    The text of all words is one array; the context column at distance d is that array moved by d places. Where
    distance d - 1 holds the boundary (id 0, which occurs in no word), everything farther back belongs to another word
    and becomes the boundary too.

    Raises:
        UserError: the contexts would take more memory than is reasonable.
    """
    ids = vocabulary.encode(BOUNDARY.join([*words, ""]))
    if len(ids) * block_size * ids.itemsize > LARGEST_CONTEXTS:
        raise UserError(
            f"the contexts of {len(ids):,} characters would take more than {LARGEST_CONTEXTS:,} bytes; give a smaller "
            "one, or a smaller corpus",
            block_size=block_size,
        )
    contexts = np.zeros((len(ids), block_size), dtype=ids.dtype)
    for distance in range(1, min(block_size, len(ids)) + 1):
        column = contexts[distance:, block_size - distance]
        column[:] = ids[:-distance]
        if distance > 1:
            column *= contexts[distance:, block_size - distance + 1] != 0
    return NGrams(torch.from_numpy(contexts), torch.from_numpy(ids))
