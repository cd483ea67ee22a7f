"""Characters and their ids."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ngram_mlp.errors import UserError
from ngram_mlp.terminal import shortened

BOUNDARY = "."


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
