import numpy as np
import pytest

from ngram_mlp.data import Vocabulary, build_ngrams
from runlab import UserError


def test_characters_are_sorted_behind_the_boundary():
    assert Vocabulary.of_words(["zoë", "ada", "Bo b"]).characters == ". Babdozë"


def test_a_boundary_is_a_character_that_no_word_holds():
    vocabulary = Vocabulary.of_words(["st. ives", "a"])
    assert vocabulary.characters == "\n .aeistv"
    ngrams = build_ngrams(["a.", ".s"], vocabulary, 2)
    contexts = ["".join(vocabulary.decode(row)) for row in ngrams.contexts.tolist()]
    assert contexts == ["\n\n", "\na", "a.", "\n\n", "\n.", ".s"]
    assert vocabulary.decode(ngrams.targets.tolist()) == "a.\n.s\n"


def test_decode_inverts_encode_for_any_characters():
    vocabulary = Vocabulary.of_words(["emma", "βήτα", "𝔸🙂", "\u202e"])
    text = "βa🙂.𝔸m\u202e."
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_ids_match_the_notebooks_mapping(sample_words):
    stoi = {character: i + 1 for i, character in enumerate(sorted(set("".join(sample_words))))} | {".": 0}
    text = "".join(sample_words[:500])
    assert Vocabulary.of_words(sample_words).encode(text).tolist() == [stoi[character] for character in text]


@pytest.mark.parametrize(("size", "dtype"), [(255, np.uint8), (256, np.int16), (40_000, np.int32)])
def test_ids_are_stored_in_the_narrowest_type_that_holds_them(size, dtype):
    characters = "".join(chr(0x20000 + i) for i in range(size))
    ids = Vocabulary.of_words([characters]).encode(characters)
    assert ids.dtype == dtype
    assert ids.tolist() == list(range(1, size + 1))


@pytest.mark.parametrize("unknown", ["x", "\U0010ffff", "\x00"])
def test_an_unknown_character_is_named(unknown):
    with pytest.raises(UserError, match="not in the vocabulary") as error:
        Vocabulary.of_words(["abc"]).encode(f"ab{unknown}c")
    assert repr(unknown) in str(error.value)
