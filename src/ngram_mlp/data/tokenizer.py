"""Maps tokens to ids: the characters of words or of a text, or words and punctuation marks."""

import itertools
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runlab import UserError, require_at_least, shortened

Unit = Literal["line", "text"]
Tokens = Literal["characters", "words"]
Vocabulary: TypeAlias = str | list[str]
# Candidates for the boundary of words; the first that no word contains is used.
BOUNDARIES = (".", "\n", "\x03")
UNKNOWN = "<unk>"
# Spaces left out between tokens: before closing and after opening punctuation.
TIGHT = re.compile(r" (?=[.,;:!?)\]}’”])|(?<=[(\[{‘“]) ")


class Tokenizer:
    """Turns text into ids and back. A token's id is its index in the vocabulary; the boundary has id 0.

    The vocabulary is one of three:

    - Characters of words: a string. The boundary ends every word; it is `.`, or a line break or another character if
      words contain `.`.
    - Characters of a text: a list. The boundary, an empty string, occurs only before the text.
    - Words: a list whose second token, `<unk>`, stands for all words that are not in it. A token is letters, digits and
      their marks, perhaps with apostrophes and hyphens inside, or one other character that is not white space. White
      space separates tokens, and is not kept. The boundary is a line break after every line, or an empty string before
      a text.

    >>> Tokenizer.of_lines(["emma", "ava"]).vocabulary
    '.aemv'
    >>> Tokenizer.of_lines(["In the beginning."], tokens="words").encode("the beginning!").tolist()
    [5, 4, 1]
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.is_text = vocabulary[0] == ""
        self.tokens: Tokens = "words" if vocabulary[1:2] == [UNKNOWN] else "characters"

    @classmethod
    def of_lines(
        cls,
        lines: Iterable[str],
        unit: Unit = "line",
        tokens: Tokens = "characters",
        min_count: int = 1,
        vocab_size: int | None = None,
    ) -> "Tokenizer":
        """Returns a tokenizer: the boundary, then the sorted characters (cell 2 of notebook 002) or words of lines.

        Args:
            lines: the lines of a corpus, or its whole text.
            unit: what is learned, each line by itself or the text.
            tokens: what gets an id.
            min_count: how often a word must occur to get an id of its own.
            vocab_size: the maximum number of tokens; None: no limit. The most frequent words come first.
        """
        if tokens == "words":
            require_at_least(1, min_count=min_count)
            if vocab_size is not None:
                require_at_least(3, vocab_size=vocab_size)
            counts = Counter(itertools.chain.from_iterable(map(words_of, lines)))
            kept = sorted((-count, word) for word, count in counts.items() if count >= min_count)
            most = None if vocab_size is None else vocab_size - 2
            return cls(["" if unit == "text" else "\n", UNKNOWN, *(word for _, word in kept[:most])])
        for name, value, default in (("min_count", min_count, 1), ("vocab_size", vocab_size, None)):
            if value != default:
                raise UserError("applies only to words; set tokens to words, or remove this option", **{name: value})
        characters = set().union(*lines)
        if unit == "text":
            return cls(["", *sorted(characters)])
        others = map(chr, itertools.count(1))
        boundary = next(one for one in itertools.chain(BOUNDARIES, others) if one not in characters)
        return cls(boundary + "".join(sorted(characters)))

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> NDArray[np.integer]:
        """Returns a text's ids, (n,), in the narrowest torch type; raises a UserError for unknown characters."""
        return self._narrow(self._word_ids([text]) if self.tokens == "words" else self._character_ids(text))

    def encode_lines(self, lines: Sequence[str]) -> NDArray[np.integer]:
        """Returns the ids of lines, each followed by the boundary; for a text, a list of one line, as `encode` does."""
        if self.is_text:
            return self.encode("".join(lines))
        if self.tokens == "words":
            return self._narrow(self._word_ids(lines, ends=True))
        return self.encode(self.vocabulary[0].join([*lines, ""]))

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; words with spaces between, but not before closing or after opening punctuation."""
        tokens = [self.vocabulary[i] for i in ids]
        return TIGHT.sub("", " ".join(tokens)) if self.tokens == "words" else "".join(tokens)

    @cached_property
    def _id_of_codepoint(self) -> NDArray[np.int32]:
        characters = "".join(self.vocabulary)
        codepoints = _codepoints(characters)
        table = np.full(int(codepoints.max()) + 2, -1, dtype=np.int32)
        table[codepoints] = np.arange(len(self) - len(characters), len(self), dtype=np.int32)
        return table

    @cached_property
    def _id_of_word(self) -> "_Ids":
        return _Ids(zip(self.vocabulary, itertools.count()))

    def _character_ids(self, text: str) -> NDArray[np.int32]:
        table = self._id_of_codepoint
        # Codepoints beyond the table share its last entry, -1: unknown.
        ids = table[np.minimum(_codepoints(text), len(table) - 1)]
        if len(ids) and ids.min() < 0:
            unknown, known = text[int(ids.argmin())], shortened("".join(self.vocabulary))
            raise UserError(f"character {unknown!r} is not in the vocabulary {known}")
        return ids

    def _word_ids(self, lines: Iterable[str], ends: bool = False) -> NDArray[np.int32]:
        ids = array("i")
        for line in lines:
            ids.extend(map(self._id_of_word.__getitem__, words_of(line)))
            if ends:
                ids.append(0)
        return np.frombuffer(ids, dtype=np.intc)

    def _narrow(self, ids: NDArray[np.int32]) -> NDArray[np.integer]:
        return ids.astype(np.uint8 if len(self) <= 2**8 else np.int16 if len(self) <= 2**15 else np.int32)


class _Ids(dict[str, int]):
    """Maps words to their ids, and all other words to 1."""

    def __missing__(self, word: str) -> int:
        return 1  # UNKNOWN


def words_of(text: str) -> Iterator[str]:
    """Returns the words and other characters of a text, separated as in `Tokenizer`."""
    # Line by line: all at once would take much memory.
    return itertools.chain.from_iterable(map(_pattern().findall, text.split("\n")))


@cache
def _pattern() -> re.Pattern[str]:
    # Marks are vowels in many scripts, but not letters for `re`.
    marks = "".join(chr(code) for code in range(0x300, 0x1E950) if unicodedata.category(chr(code))[0] == "M")
    # The usual characters after a word are tested first, because ruling out a mark is slow.
    return re.compile(rf"\w+(?:(?![\s.,;:!?])(?:['’-](?=\w)|[{marks}])\w*)*|\S")


def _codepoints(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
