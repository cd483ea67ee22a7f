import random

import pytest

from ngram_mlp.data import NGramDataModule, Vocabulary, build_ngrams, split_words
from ngram_mlp.data.ngrams import split_text
from runlab import UserError
from tests.reference.notebook import build_dataset, dataset


@pytest.mark.parametrize("block_size", [1, 2, 3, 5, 12])
def test_ngrams_equal_the_notebooks_loop(block_size, sample_words):
    words = random.Random(0).sample(sample_words, 200)
    vocabulary = Vocabulary.of_words(words)
    stoi = {character: i for i, character in enumerate(vocabulary.characters)}
    contexts, targets = build_dataset(words, stoi, block_size)
    ngrams = build_ngrams(words, vocabulary, block_size)
    assert ngrams.contexts.tolist() == contexts.tolist()
    assert ngrams.targets.tolist() == targets.tolist()


def test_a_block_longer_than_the_text_is_all_boundary():
    ngrams = build_ngrams(["ab"], Vocabulary.of_words(["ab"]), block_size=6)
    assert ngrams.contexts.tolist() == [[0] * 6, [0] * 5 + [1], [0] * 4 + [1, 2]]
    assert ngrams.targets.tolist() == [1, 2, 0]


@pytest.mark.parametrize("block_size", [1, 4])
def test_contexts_slide_over_a_text_of_contiguous_parts(block_size, tmp_path):
    """Across its lines: of every character those before it, which at the beginning of a part are the boundary."""
    text = "It was a dark night.\nЖили-были... 你好，世界。 كان يا ما كان\nΚαλή μέρα! \n\n" * 9
    (tmp_path / "text.txt").write_bytes(text.replace("\n", "\r\n").encode())
    data = NGramDataModule(str(tmp_path / "text.txt"), block_size, unit="text")
    assert data.characters == "\x03" + "".join(sorted({*text}))
    first, second = int(0.8 * len(text)), int(0.9 * len(text))
    for part, ngrams in zip((text[:first], text[first:second], text[second:]), data.splits.values(), strict=True):
        ids = [data.characters.index(character) for character in part]
        contexts = [([0] * block_size + ids)[place : place + block_size] for place in range(len(ids))]
        assert ngrams.contexts.tolist() == contexts
        assert ngrams.targets.tolist() == ids
    assert data.corpus.summary()["unit"] == "text"


def test_a_text_has_a_boundary_that_is_none_of_its_characters():
    every = "".join(map(chr, [*range(1, 60), 0xFFFF]))
    assert Vocabulary.of_words([every]).characters[0] == chr(60)
    with pytest.raises(UserError, match="the text has fewer than 10 characters"):
        split_text("a b c.")


def test_contexts_beyond_all_memory_are_refused(sample_words):
    with pytest.raises(UserError, match=r"block_size 1000000000: the contexts of"):
        build_ngrams(sample_words, Vocabulary.of_words(sample_words), 10**9)


def test_splits_are_disjoint_complete_and_the_notebooks(sample_words):
    train, val, test = split_words(sample_words)
    assert sorted(train + val + test) == sorted(sample_words)
    shuffled = list(sample_words)
    random.seed(42)
    random.shuffle(shuffled)
    assert train + val + test == shuffled
    assert (len(train), len(val)) == (int(0.8 * len(shuffled)), int(0.9 * len(shuffled)) - int(0.8 * len(shuffled)))


def test_names_give_the_notebooks_splits(names):
    vocabulary = Vocabulary.of_words(names)
    (train, val, test), vocab_size = dataset(names)
    assert vocab_size == len(vocabulary) == 27
    splits = [build_ngrams(words, vocabulary, 3) for words in split_words(names)]
    assert [len(split) for split in splits] == [182_625, 22_655, 22_866]
    for split, (contexts, targets) in zip(splits, (train, val, test), strict=True):
        assert split.contexts.long().equal(contexts)
        assert split.targets.long().equal(targets)


@pytest.mark.parametrize("count", range(1, 13))
def test_too_few_words_are_refused_and_enough_are_split(count):
    words = [f"w{i}" for i in range(count)]
    if count < 6:
        with pytest.raises(UserError, match=f"a word is a line, and {count} cannot fill"):
            split_words(words)
    else:
        assert all(split_words(words))


@pytest.mark.parametrize("block_size", [1, 3, 8])
def test_each_example_has_one_of_the_distinct_contexts(block_size, sample_words):
    ngrams = build_ngrams(sample_words, Vocabulary.of_words(sample_words), block_size)
    contexts, which = ngrams.distinct()
    assert len(contexts) == len(ngrams.contexts.unique(dim=0))
    assert contexts[which].equal(ngrams.contexts)


def test_contexts_of_more_than_64_bits_are_not_told_apart(sample_words):
    vocabulary = Vocabulary.of_words(sample_words)
    assert len(vocabulary) == 27
    assert build_ngrams(sample_words, vocabulary, 13).distinct() is not None  # 27**13 < 2**63 < 27**14
    assert build_ngrams(sample_words, vocabulary, 14).distinct() is None
