"""Characters and their ids, words or a text to contexts and targets, and the split of either into three."""

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runlab import UserError, shortened

# The characters that may stand for the boundary, the first that no word holds; the third ends texts in ASCII.
BOUNDARIES = (".", "\n", "\x03")
LARGEST_CONTEXTS = 8 * 2**30


@dataclass(frozen=True)
class Vocabulary:
    """The characters of a corpus: a character's id is its place in `characters`; the boundary has id 0.

    The boundary is shown as `.`, or as a line break if words hold that, or as another character that a text has not.

    >>> Vocabulary.of_words(["emma", "ava"]).characters
    '.aemv'
    """

    characters: str

    @classmethod
    def of_words(cls, words: Iterable[str]) -> "Vocabulary":
        """The boundary, then the sorted distinct characters of `words` (cell 2 of notebook 002)."""
        characters = set().union(*words)
        others = map(chr, itertools.count(1))
        boundary = next(one for one in itertools.chain(BOUNDARIES, others) if one not in characters)
        return cls(boundary + "".join(sorted(characters)))

    def __len__(self) -> int:
        return len(self.characters)

    @cached_property
    def _id_of_codepoint(self) -> NDArray[np.int32]:
        codepoints = _codepoints(self.characters)
        table = np.full(int(codepoints.max()) + 2, -1, dtype=np.int32)
        table[codepoints] = np.arange(len(self), dtype=np.int32)
        return table

    def encode(self, text: str) -> NDArray[np.integer]:
        """The ids of the characters of `text`, shape (len(text),); raises a UserError for one that has none."""
        table = self._id_of_codepoint
        # Codepoints beyond the table share its last entry, which is -1: unknown.
        ids = table[np.minimum(_codepoints(text), len(table) - 1)]
        if len(ids) and ids.min() < 0:
            unknown = text[int(ids.argmin())]
            raise UserError(f"character {unknown!r} is not in the vocabulary {shortened(self.characters)}")
        # The narrowest type that holds every id, of those that torch has.
        return ids.astype(np.uint8 if len(self) <= 2**8 else np.int16 if len(self) <= 2**15 else np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.characters[i] for i in ids)


def _codepoints(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


@dataclass(frozen=True)
class NGrams:
    """The contexts of a list of words and the characters that follow them; cast ids to int64 to index with them."""

    contexts: Tensor  # (N, block_size)
    targets: Tensor  # (N,)

    def __len__(self) -> int:
        return len(self.targets)

    def distinct(self) -> tuple[Tensor, Tensor] | None:
        """The distinct contexts (M, T), and which of them each example has (N,), int64.

        None where a context is too long to be one number of 64 bits: such contexts hardly occur twice.
        """
        characters, length = int(self.contexts.max()) + 1, self.contexts.shape[1]
        if characters**length > 2**63:
            return None
        numbers = (self.contexts.long() * characters ** torch.arange(length)).sum(1).numpy()
        small = numbers.astype(np.min_scalar_type(characters**length - 1))  # numbers of 16 bits are sorted at once
        _, first, which = np.unique(small, return_index=True, return_inverse=True)
        return self.contexts[torch.from_numpy(first)], torch.from_numpy(which)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The notebooks' split: shuffled by `random.Random(42)`, then 80 % training, 10 % validation, 10 % test."""
    shuffled = list(words)
    random.Random(42).shuffle(shuffled)
    n1, n2 = int(0.8 * len(shuffled)), int(0.9 * len(shuffled))
    train, val, test = shuffled[:n1], shuffled[n1:n2], shuffled[n2:]
    if not (train and val and test):
        lines = f"a word is a line, and {len(words)} cannot fill three splits"
        raise UserError(f"{lines}; give a file of at least 6 lines, better thousands, or take the unit text")
    return train, val, test


def split_text(text: str) -> tuple[str, str, str]:
    """Three contiguous parts of a text: 80 % training, 10 % validation, 10 % test."""
    n1, n2 = int(0.8 * len(text)), int(0.9 * len(text))
    if len(text) < 10:
        raise UserError("the text has fewer than 10 characters; give a longer one, better a million")
    return text[:n1], text[n1:n2], text[n2:]


def build_ngrams(words: Sequence[str], vocabulary: Vocabulary, block_size: int) -> NGrams:
    """The contexts and targets of `words`, in order: what the notebooks' `build_dataset` computes word by word.

    The text of all words is one array; the context column at distance d is that array moved by d places. Where
    distance d - 1 holds the boundary (id 0, which occurs in no word), everything farther back belongs to another word
    and becomes the boundary too. Raises a UserError where the contexts would take too much memory.
    """
    ids = vocabulary.encode(vocabulary.characters[0].join([*words, ""]))
    if len(ids) * block_size * ids.itemsize > LARGEST_CONTEXTS:
        reason = f"the contexts of {len(ids):,} characters would exceed {LARGEST_CONTEXTS:,} bytes; give a smaller one"
        raise UserError(reason, block_size=block_size)
    contexts = np.zeros((len(ids), block_size), dtype=ids.dtype)
    for distance in range(1, min(block_size, len(ids)) + 1):
        column = contexts[distance:, block_size - distance]
        column[:] = ids[:-distance]
        if distance > 1:
            column *= contexts[distance:, block_size - distance + 1] != 0
    return NGrams(torch.from_numpy(contexts), torch.from_numpy(ids))


def build_text_ngrams(text: str, vocabulary: Vocabulary, block_size: int) -> NGrams:
    """The context and target of every character of a text; the first contexts begin with the boundary, nothing ends."""
    ngrams = build_ngrams([text], vocabulary, block_size)
    return NGrams(ngrams.contexts[:-1], ngrams.targets[:-1])
