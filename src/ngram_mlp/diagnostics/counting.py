"""Counts n-grams: models of a corpus against which a network is judged."""

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ngram_mlp.data import NGrams

LONGEST = 5  # the longest n-grams counted
DISCOUNT = 0.75
Numbers: TypeAlias = NDArray[np.int64]
Probabilities: TypeAlias = NDArray[np.float64]


def counted_losses(train: NGrams, split: NGrams, vocab_size: int) -> dict[str, float]:
    """Returns the mean cross-entropy in nats on a split, by name, of models that count in the training split.

    These are unigrams, bigrams and trigrams with add-one smoothing, and Kneser-Ney models of up to five tokens, as far
    as the contexts allow.
    """
    counted = CountedNGrams(train, vocab_size)
    names = ("unigrams", "bigrams", "trigrams")
    losses = dict(zip(names, map(_loss, counted.add_one(split, len(names))), strict=False))
    kneser_ney = counted.kneser_ney(split)
    return losses | {f"{n}-grams (Kneser-Ney)": _loss(found) for n, found in enumerate(kneser_ney, start=1)}


def _loss(probabilities: Probabilities) -> float:
    return float(-np.log(probabilities).mean())


class _Table(NamedTuple):
    """The counts of pairs of a context and the token after it; a pair is context * vocab_size + token."""

    pairs: Numbers  # sorted, distinct
    times: Numbers
    contexts: Numbers  # sorted, distinct
    totals: Numbers  # of a context: the sum of its times
    kinds: Numbers  # of a context: the number of distinct tokens after it

    @classmethod
    def of(cls, pairs: Numbers, times: Numbers, vocab_size: int) -> "_Table":
        """Returns the table of sorted distinct pairs and their counts."""
        contexts, first = np.unique(pairs // vocab_size, return_index=True)
        kinds = np.diff(np.append(first, len(pairs)))
        return cls(pairs, times, contexts, np.add.reduceat(times, first), kinds)

    def look_up(self, contexts: Numbers, pairs: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Returns the times of pairs, and the totals and kinds of their contexts; 0 for unseen ones."""
        place, at = _place(self.contexts, contexts), _place(self.pairs, pairs)
        seen = self.contexts[place] == contexts
        times = np.where(seen & (self.pairs[at] == pairs), self.times[at], 0)
        return times, np.where(seen, self.totals[place], 0), np.where(seen, self.kinds[place], 0)


class CountedNGrams:
    """Counts n-grams of up to five tokens, in memory that grows with the examples and not with the vocabulary."""

    def __init__(self, train: NGrams, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.order = min(train.contexts.shape[1] + 1, LONGEST)
        self._longer: list[Numbers] = []  # by length - 1; a context's number is its index here
        self._counts: list[_Table] = []  # by the length of the context
        self._distinct: list[_Table] = []  # the same for distinct n-grams one token longer on the left
        contexts, targets = np.zeros(len(train), np.int64), _column(train.targets.numpy())
        shorter = contexts
        for length in range(self.order):
            if length:
                keys = contexts * vocab_size + _column(train.contexts[:, -length].numpy())
                self._longer.append(np.unique(keys))
                contexts = np.searchsorted(self._longer[-1], keys)
            pairs = contexts * vocab_size + targets
            distinct, first, times = np.unique(pairs, return_index=True, return_counts=True)
            self._counts.append(_Table.of(distinct, times, vocab_size))
            if length:
                self._distinct.append(_Table.of(*np.unique(shorter[first], return_counts=True), vocab_size))
            shorter = pairs

    def add_one(self, split: NGrams, order: int) -> list[Probabilities]:
        """Returns the targets' probabilities (N,) by order: (times + 1) / (times of the context + vocab_size)."""
        looked_up = (self._counts[length].look_up(*pairs) for length, pairs in enumerate(self._pairs(split)[:order]))
        return [(times + 1) / (total + self._vocab_size) for times, total, _ in looked_up]

    def kneser_ney(self, split: NGrams, discount: float = DISCOUNT) -> list[Probabilities]:
        """Returns the targets' probabilities (N,) by order 1, 2, ...: Kneser and Ney 1995, interpolated.

        As in Chen and Goodman 1998, section 2.7, the highest order uses the counts of n-grams, and every lower one the
        number of distinct tokens before them. Each count is lowered by the discount d; the freed probability goes to
        the order below, and finally to all tokens equally:

            P(w | h) = max(c(h w) - d, 0) / c(h) + d * N(h) / c(h) * P(w | h without its first token)

        with N(h) the number of distinct tokens after h. An unseen context leaves everything to the order below.
        """
        found, below = [], np.full(len(split), 1 / self._vocab_size)
        for length, (contexts, pairs) in enumerate(self._pairs(split)):
            for tables in (self._counts, self._distinct):
                if length < len(tables):
                    times, total, kinds = tables[length].look_up(contexts, pairs)
                    left = np.where(total, discount * kinds / np.maximum(total, 1), 1)
                    result = np.maximum(times - discount, 0) / np.maximum(total, 1) + left * below
                    found += [result] if tables is self._counts else []
            below = result
        return found

    def _pairs(self, split: NGrams) -> list[tuple[Numbers, Numbers]]:
        """Returns, by length, a split's contexts and their pairs with the targets; -1 for an unseen context."""
        contexts, targets, found = np.zeros(len(split), np.int64), _column(split.targets.numpy()), []
        for length in range(self.order):
            if length:
                keys = contexts * self._vocab_size + _column(split.contexts[:, -length].numpy())
                place = _place(self._longer[length - 1], keys)
                known = (contexts >= 0) & (self._longer[length - 1][place] == keys)
                contexts = np.where(known, place, -1)
            found.append((contexts, np.where(contexts >= 0, contexts * self._vocab_size + targets, -1)))
        return found


def _place(known: Numbers, wanted: Numbers) -> Numbers:
    """Returns the index of each wanted number in the sorted known ones, or where it would be."""
    return np.minimum(np.searchsorted(known, wanted), len(known) - 1)


def _column(ids: NDArray[np.integer]) -> Numbers:
    return ids.astype(np.int64)
