import numpy as np
import pytest

from ngram_mlp.data import Tokenizer, build_ngrams
from runlab import UserError


def test_characters_are_sorted_behind_the_boundary():
    assert Tokenizer.of_lines(["zoë", "ada", "Bo b"]).vocabulary == ". Babdozë"


def test_of_all_characters_the_boundary_is_another_one():
    every = "".join(map(chr, [*range(1, 60), 0xFFFF]))
    assert Tokenizer.of_lines([every]).vocabulary[0] == chr(60)


def test_words_are_shown_as_they_are_written():
    text = "And he said, (I am) that I am; don't ask: \u201cwhy?\u201d!"
    tokenizer = Tokenizer.of_lines([text], tokens="words")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode("he knew that")) == "he <unk> that"


def test_a_boundary_is_a_character_that_no_word_holds():
    tokenizer = Tokenizer.of_lines(["st. ives", "a"])
    assert tokenizer.vocabulary == "\n .aeistv"
    ngrams = build_ngrams(["a.", ".s"], tokenizer, 2)
    contexts = ["".join(tokenizer.decode(row)) for row in ngrams.contexts.tolist()]
    assert contexts == ["\n\n", "\na", "a.", "\n\n", "\n.", ".s"]
    assert tokenizer.decode(ngrams.targets.tolist()) == "a.\n.s\n"


def test_decode_inverts_encode_for_any_characters():
    tokenizer = Tokenizer.of_lines(["emma", "βήτα", "𝔸🙂", "\u202e"])
    text = "βa🙂.𝔸m\u202e."
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_match_the_notebooks_mapping(sample_words):
    stoi = {character: i + 1 for i, character in enumerate(sorted(set("".join(sample_words))))} | {".": 0}
    text = "".join(sample_words[:500])
    assert Tokenizer.of_lines(sample_words).encode(text).tolist() == [stoi[character] for character in text]


@pytest.mark.parametrize(("size", "dtype"), [(255, np.uint8), (256, np.int16), (40_000, np.int32)])
def test_ids_are_stored_in_the_narrowest_type_that_holds_them(size, dtype):
    characters = "".join(chr(0x20000 + i) for i in range(size))
    ids = Tokenizer.of_lines([characters]).encode(characters)
    assert ids.dtype == dtype
    assert ids.tolist() == list(range(1, size + 1))


@pytest.mark.parametrize("unknown", ["x", "\U0010ffff", "\x00"])
def test_an_unknown_character_is_named(unknown):
    with pytest.raises(UserError, match="not in the vocabulary") as error:
        Tokenizer.of_lines(["abc"]).encode(f"ab{unknown}c")
    assert repr(unknown) in str(error.value)
