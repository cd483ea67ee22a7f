"""Turns words or a text into contexts and targets, and splits either into three."""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ngram_mlp.data.tokenizer import Tokenizer, Tokens, words_of
from runlab import UserError

LARGEST_CONTEXTS = 8 * 2**30
MOST = 700.0  # its exponential is still finite


@dataclass(frozen=True)
class NGrams:
    """Contexts of lines or a text, and the tokens that follow them; cast ids to int64 to index with them."""

    contexts: Tensor  # (N, block_size)
    targets: Tensor  # (N,)
    characters: float = 0  # encoded, including line ends; 0 if the tokens do not determine them
    words: float = 0  # by the rule of `Tokenizer`, including line ends; 0 if each line is one word

    def __len__(self) -> int:
        return len(self.targets)

    def some(self, most: int) -> "NGrams":
        """Returns `most` evenly spaced examples, or all if there are no more."""
        if len(self) <= most:
            return self
        places = torch.linspace(0, len(self) - 1, most, dtype=torch.float64).long()
        share = most / len(self)
        return NGrams(self.contexts[places], self.targets[places], self.characters * share, self.words * share)

    def rates(self, loss: float) -> dict[str, float]:
        """Returns a mean loss in nats per token as `bits_per_character` and `perplexity_per_word`, where known."""
        total, found = loss * len(self), {}
        if self.characters:
            found["bits_per_character"] = total / math.log(2) / self.characters
        if self.words:
            found["perplexity_per_word"] = math.exp(min(total / self.words, MOST))
        return found

    def distinct(self) -> tuple[Tensor, Tensor] | None:
        """Returns the distinct contexts (M, T), and the index of each example's context among them, (N,), int64.

        Returns None if a context does not fit into one number of 64 bits: such contexts hardly ever repeat.
        """
        tokens, length = int(self.contexts.max()) + 1, self.contexts.shape[1]
        if tokens**length > 2**63:
            return None
        numbers = (self.contexts.long() * tokens ** torch.arange(length)).sum(1).numpy()
        small = numbers.astype(np.min_scalar_type(tokens**length - 1))  # 16-bit numbers are radix-sorted
        _, first, which = np.unique(small, return_index=True, return_inverse=True)
        return self.contexts[torch.from_numpy(first)], torch.from_numpy(which)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Returns the notebooks' split: shuffled by `random.Random(42)`, then 80 % training, 10 % validation, 10 % test."""
    shuffled = list(words)
    random.Random(42).shuffle(shuffled)
    n1, n2 = int(0.8 * len(shuffled)), int(0.9 * len(shuffled))
    train, val, test = shuffled[:n1], shuffled[n1:n2], shuffled[n2:]
    if not (train and val and test):
        reason = f"too few lines ({len(words)}) for three splits"
        raise UserError(f"{reason}; give a file of at least 6 lines, ideally thousands, or set unit to text")
    return train, val, test


def split_text(text: str, tokens: Tokens = "characters") -> tuple[list[str], list[str], list[str]]:
    """Returns three contiguous parts of a text, each a list of one: 80 % training, 10 % validation, 10 % test.

    If tokens are words, no word is cut. Raises a UserError if the text is too short.
    """
    places = [int(0.8 * len(text)), int(0.9 * len(text))]
    if tokens == "words":
        ends = (re.compile(r"\s").search(text, place) for place in places)
        places = [end.start() if end else len(text) for end in ends]
    train, val, test = text[: places[0]], text[places[0] : places[1]], text[places[1] :]
    if not all(part if tokens == "characters" else part.strip() for part in (train, val, test)):
        remedy = f"give a longer one, ideally a million {tokens}"
        raise UserError(f"the text is too short for three splits of {tokens}; {remedy}")
    return [train], [val], [test]


def build_ngrams(lines: Sequence[str], tokenizer: Tokenizer, block_size: int) -> NGrams:
    """Returns the contexts and targets of lines, in order, as the notebooks' `build_dataset` does word by word.

    The tokens of all lines are one array; the context column at distance d is that array shifted by d places. Where
    distance d - 1 holds the boundary (id 0, which occurs in no line), everything farther back belongs to another line
    and becomes the boundary too. The contexts of a text begin with the boundary, and nothing ends it. Raises a
    UserError if the contexts would take too much memory.
    """
    ids = tokenizer.encode_lines(lines)
    if len(ids) * block_size * ids.itemsize > LARGEST_CONTEXTS:
        reason = (
            f"the contexts of {len(ids):,} tokens would exceed {LARGEST_CONTEXTS:,} bytes; give a smaller block_size"
        )
        raise UserError(reason, block_size=block_size)
    contexts = np.zeros((len(ids), block_size), dtype=ids.dtype)
    for distance in range(1, min(block_size, len(ids)) + 1):
        column = contexts[distance:, block_size - distance]
        column[:] = ids[:-distance]
        if distance > 1:
            column *= contexts[distance:, block_size - distance + 1] != 0
    ends = 0 if tokenizer.is_text else len(lines)
    by_words = tokenizer.tokens == "words"
    characters = 0 if by_words and (ids == 1).any() else sum(map(len, lines)) + ends
    words = len(ids) if by_words else sum(1 for line in lines for _ in words_of(line)) if tokenizer.is_text else 0
    return NGrams(torch.from_numpy(contexts), torch.from_numpy(ids), characters, words)
