"""What holds for any words at all."""

import os
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngram_mlp.data import Tokenizer, build_ngrams, load_corpus, split_words
from ngram_mlp.data.datamodule import NGramDataModule
from runlab import UserError
from tests.reference.notebook import build_dataset

LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters=".\n")
WORDS = st.lists(st.text(LETTERS, min_size=1, max_size=12), min_size=1, max_size=30)


@given(words=WORDS, data=st.data())
def test_decoding_inverts_encoding(words, data):
    tokenizer = Tokenizer.of_lines(words)
    text = data.draw(st.text(st.sampled_from(tokenizer.vocabulary), max_size=50))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert [tokenizer.vocabulary[i] for i in ids] == list(text)
    assert tokenizer.vocabulary == "." + "".join(sorted({*"".join(words)}))


@given(words=WORDS, block_size=st.integers(1, 9))
def test_windows_are_those_of_the_notebooks_loop(words, block_size):
    tokenizer = Tokenizer.of_lines(words)
    stoi = {character: i for i, character in enumerate(tokenizer.vocabulary)}
    contexts, targets = build_dataset(words, stoi, block_size)
    ngrams = build_ngrams(words, tokenizer, block_size)
    assert ngrams.contexts.tolist() == contexts.tolist()
    assert ngrams.targets.tolist() == targets.tolist()


@given(words=st.lists(st.text(LETTERS, min_size=1), max_size=60))
def test_splits_are_disjoint_complete_and_never_empty(words):
    numbered = [f"{i} {word}" for i, word in enumerate(words)]  # so that each word is one of its kind
    try:
        splits = split_words(numbered)
    except UserError:
        assert len(words) < 6
        return
    assert all(splits)
    assert Counter(word for split in splits for word in split) == Counter(numbered)
    assert splits == split_words(numbered)


@settings(deadline=None)
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_any_file_is_a_corpus_or_refused_with_a_reason(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_bytes(content)
    data = NGramDataModule(str(path))
    try:
        splits = data.splits
    except UserError as error:
        reason = str(error)
    else:
        reason = ""
    if reason:
        assert reason.startswith("corpus ")
        return
    words = [line.strip() for line in content.decode().removeprefix("\ufeff").replace("\r\n", "\n").split("\n")]
    assert data.corpus.words == [word for word in words if word]
    assert sum(map(len, splits.values())) == sum(len(word) + 1 for word in data.corpus.words)


def test_a_corpus_of_one_line_of_ten_megabytes_and_one_of_100_000_characters(tmp_path):
    path = tmp_path / "words.txt"
    letters = "".join(random.Random(1).choices("abcdefgh", k=10_000_000))
    path.write_text("\n".join([letters, *"abcdefghij"]))
    data = NGramDataModule(str(path))
    assert sum(map(len, data.splits.values())) == 10_000_021
    characters = [chr(0x20000 + i) for i in range(60_000)] + [chr(0x30000 + i) for i in range(40_000)]
    path.write_text("\n".join("".join(characters[i : i + 50]) for i in range(0, 100_000, 50)))
    data = NGramDataModule(str(path))
    assert len(data.tokenizer) == 100_001
    ids = np.concatenate([ngrams.targets.numpy() for ngrams in data.splits.values()])
    assert sorted({*ids.tolist()}) == list(range(100_001))


@pytest.mark.skipif(not os.path.exists("/proc/self/mountinfo"), reason="a file of the Linux kernel")
def test_no_file_without_a_size_is_read():
    """Files of the kernel state no size, and some never end."""
    with pytest.raises(UserError, match="the file has no words"):
        load_corpus("/proc/self/mountinfo")
