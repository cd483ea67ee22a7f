"""Characters and their ids; words to contexts and targets; the split of words into training, validation and test."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ngram_mlp.errors import UserError, shortened

BOUNDARY = "."
LARGEST_CONTEXTS = 8 * 2**30


@dataclass(frozen=True)
class Vocabulary:
    """The characters of a corpus: a character's id is its place in `characters`, and the boundary `.` has id 0.

    >>> vocabulary = Vocabulary.of_words(["emma", "ava"])
    >>> vocabulary.characters
    '.aemv'
    >>> vocabulary.decode(vocabulary.encode("ava."))
    'ava.'
    """

    characters: str

    @classmethod
    def of_words(cls, words: Iterable[str]) -> "Vocabulary":
        """The boundary, then the sorted distinct characters of `words` (cell 2 of notebook 002)."""
        return cls(BOUNDARY + "".join(sorted(set().union(*words))))

    def __len__(self) -> int:
        return len(self.characters)

    @cached_property
    def dtype(self) -> type[np.integer]:
        """The narrowest integer type that holds every id and that torch can index with after a cast."""
        return np.uint8 if len(self) <= 2**8 else np.int16 if len(self) <= 2**15 else np.int32

    @cached_property
    def _id_of_codepoint(self) -> NDArray[np.int32]:
        codepoints = _codepoints(self.characters)
        table = np.full(int(codepoints.max()) + 2, -1, dtype=np.int32)
        table[codepoints] = np.arange(len(self), dtype=np.int32)
        return table

    def encode(self, text: str) -> NDArray[np.integer]:
        """The ids of the characters of `text`, shape (len(text),), as `dtype`.

        Raises:
            UserError: `text` holds a character that is not in the vocabulary.
        """
        table = self._id_of_codepoint
        # Codepoints beyond the table share its last entry, which is -1: unknown.
        ids = table[np.minimum(_codepoints(text), len(table) - 1)]
        if len(ids) and ids.min() < 0:
            raise UserError(
                f"character {text[int(ids.argmin())]!r} is not in the vocabulary {shortened(self.characters)}"
            )
        narrow: NDArray[np.integer] = ids.astype(self.dtype)
        return narrow

    def decode(self, ids: Iterable[int]) -> str:
        """The text whose ids are `ids`."""
        return "".join(self.characters[i] for i in ids)


def _codepoints(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


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
