import math
import random
import unicodedata

import pytest

from ngram_mlp.data import NGramDataModule, Tokenizer, build_ngrams, split_words
from ngram_mlp.data.ngrams import split_text
from runlab import UserError
from tests.reference.notebook import build_dataset, dataset


@pytest.mark.parametrize("block_size", [1, 2, 3, 5, 12])
def test_ngrams_equal_the_notebooks_loop(block_size, sample_words):
    words = random.Random(0).sample(sample_words, 200)
    tokenizer = Tokenizer.of_lines(words)
    stoi = {character: i for i, character in enumerate(tokenizer.vocabulary)}
    contexts, targets = build_dataset(words, stoi, block_size)
    ngrams = build_ngrams(words, tokenizer, block_size)
    assert ngrams.contexts.tolist() == contexts.tolist()
    assert ngrams.targets.tolist() == targets.tolist()


def test_a_block_longer_than_the_text_is_all_boundary():
    ngrams = build_ngrams(["ab"], Tokenizer.of_lines(["ab"]), block_size=6)
    assert ngrams.contexts.tolist() == [[0] * 6, [0] * 5 + [1], [0] * 4 + [1, 2]]
    assert ngrams.targets.tolist() == [1, 2, 0]


@pytest.mark.parametrize("block_size", [1, 4])
def test_contexts_slide_over_a_text_of_contiguous_parts(block_size, tmp_path):
    """Across its lines: of every character those before it, which at the beginning of a part are the boundary."""
    text = "It was a dark night.\nЖили-были... 你好，世界。 كان يا ما كان\nΚαλή μέρα! \n\n" * 9
    (tmp_path / "text.txt").write_bytes(text.replace("\n", "\r\n").encode())
    data = NGramDataModule(str(tmp_path / "text.txt"), block_size, unit="text")
    assert data.vocabulary == ["", *sorted({*text})]
    first, second = int(0.8 * len(text)), int(0.9 * len(text))
    for part, ngrams in zip((text[:first], text[first:second], text[second:]), data.splits.values(), strict=True):
        ids = [data.vocabulary.index(character) for character in part]
        contexts = [([0] * block_size + ids)[place : place + block_size] for place in range(len(ids))]
        assert ngrams.contexts.tolist() == contexts
        assert ngrams.targets.tolist() == ids
    assert data.corpus.summary()["unit"] == "text"


def test_a_text_that_is_too_short_is_refused():
    for text, tokens in (("ab.", "characters"), ("anticonstitutional and", "words")):
        with pytest.raises(UserError, match=f"the text is too short for three splits of {tokens}"):
            split_text(text, tokens)


PROSE = "In the beginning, there was a dark night.\nDon't cry -- it's half-past ten!  «Où?» हिन्दी, 世界 (x) ...\n\n" * 9


@pytest.mark.parametrize("unit", ["line", "text"])
@pytest.mark.parametrize(("min_count", "vocab_size"), [(1, None), (10, None), (1, 5)])
def test_words_are_tokens_and_rare_ones_are_one(unit, min_count, vocab_size, tmp_path):
    (tmp_path / "prose.txt").write_text(PROSE + "Once more, there is half a night.\n")
    options = {"unit": unit, "tokens": "words", "min_count": min_count, "vocab_size": vocab_size}
    data = NGramDataModule(str(tmp_path / "prose.txt"), 3, **options)
    split = split_text(data.corpus.words[0], "words") if unit == "text" else split_words(data.corpus.words)
    every = [word for line in data.corpus.words for word in naive_words(line)]
    frequent = sorted({word for word in every if every.count(word) >= min_count}, key=lambda w: (-every.count(w), w))
    frequent = frequent[: vocab_size and vocab_size - 2]
    assert data.vocabulary == ["" if unit == "text" else "\n", "<unk>", *frequent]
    for lines, ngrams in zip(split, data.splits.values(), strict=True):
        contexts, targets = [], []
        for line in lines:
            ids = [data.vocabulary.index(word) if word in frequent else 1 for word in naive_words(line)]
            for place, target in enumerate(ids if unit == "text" else [*ids, 0]):
                contexts.append(([0] * 3 + ids)[place : place + 3])
                targets.append(target)
        assert ngrams.contexts.tolist() == contexts
        assert ngrams.targets.tolist() == targets
        assert ngrams.words == len(targets)
        characters = sum(map(len, lines)) + (len(lines) if unit == "line" else 0)
        assert ngrams.characters == (0 if 1 in targets else characters)
    assert unit == "line" or "".join(map("".join, split)) == data.corpus.words[0]


def is_letter(character):
    return character.isalnum() or unicodedata.category(character or " ")[0] == "M"


def naive_words(line):
    """Letters and digits, with single apostrophes and hyphens inside; every other character but white space alone."""
    words, inside = [], False
    for place, character in enumerate(line):
        follows = is_letter(line[place + 1 : place + 2])
        if character.isalnum() or (inside and (is_letter(character) or (follows and character in "'’-"))):
            words[len(words) - inside :] = [(words[-1] if inside else "") + character]
            inside = True
        else:
            words += [] if character.isspace() else [character]
            inside = False
    return words


def test_a_mean_loss_is_bits_per_character_and_perplexity_per_word(tmp_path):
    (tmp_path / "prose.txt").write_text(PROSE)
    for tokens in ("characters", "words"):
        val = NGramDataModule(str(tmp_path / "prose.txt"), 2, unit="text", tokens=tokens).splits["val"]
        rates = val.rates(1.5)
        text = split_text(PROSE, tokens)[1][0]
        assert rates["bits_per_character"] == pytest.approx(1.5 * len(val) / math.log(2) / len(text))
        assert rates["perplexity_per_word"] == pytest.approx(math.exp(1.5 * len(val) / len(naive_words(text))))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"min_count": 2}, "min_count 2: applies only to words; set tokens to words"),
        ({"vocab_size": 50}, "vocab_size 50: applies only to words"),
        ({"tokens": "words", "vocab_size": 2}, "vocab_size 2: give a whole number of at least 3"),
        ({"tokens": "words", "min_count": 0}, "min_count 0: give a whole number of at least 1"),
        ({"tokens": "bytes"}, "tokens bytes: give characters or words"),
    ],
)
def test_limits_of_a_vocabulary_are_checked(options, told):
    with pytest.raises(UserError, match=told):
        _ = NGramDataModule("sample", **options).vocabulary


def test_contexts_beyond_all_memory_are_refused(sample_words):
    with pytest.raises(UserError, match=r"block_size 1000000000: the contexts of"):
        build_ngrams(sample_words, Tokenizer.of_lines(sample_words), 10**9)


def test_splits_are_disjoint_complete_and_the_notebooks(sample_words):
    train, val, test = split_words(sample_words)
    assert sorted(train + val + test) == sorted(sample_words)
    shuffled = list(sample_words)
    random.seed(42)
    random.shuffle(shuffled)
    assert train + val + test == shuffled
    assert (len(train), len(val)) == (int(0.8 * len(shuffled)), int(0.9 * len(shuffled)) - int(0.8 * len(shuffled)))


def test_names_give_the_notebooks_splits(names):
    tokenizer = Tokenizer.of_lines(names)
    (train, val, test), vocab_size = dataset(names)
    assert vocab_size == len(tokenizer) == 27
    splits = [build_ngrams(words, tokenizer, 3) for words in split_words(names)]
    assert [len(split) for split in splits] == [182_625, 22_655, 22_866]
    for split, (contexts, targets) in zip(splits, (train, val, test), strict=True):
        assert split.contexts.long().equal(contexts)
        assert split.targets.long().equal(targets)


@pytest.mark.parametrize("count", range(1, 13))
def test_too_few_words_are_refused_and_enough_are_split(count):
    words = [f"w{i}" for i in range(count)]
    if count < 6:
        with pytest.raises(UserError, match=rf"too few lines \({count}\) for three splits"):
            split_words(words)
    else:
        assert all(split_words(words))


@pytest.mark.parametrize("block_size", [1, 3, 8])
def test_each_example_has_one_of_the_distinct_contexts(block_size, sample_words):
    ngrams = build_ngrams(sample_words, Tokenizer.of_lines(sample_words), block_size)
    contexts, which = ngrams.distinct()
    assert len(contexts) == len(ngrams.contexts.unique(dim=0))
    assert contexts[which].equal(ngrams.contexts)


def test_contexts_of_more_than_64_bits_are_not_told_apart(sample_words):
    tokenizer = Tokenizer.of_lines(sample_words)
    assert len(tokenizer) == 27
    assert build_ngrams(sample_words, tokenizer, 13).distinct() is not None  # 27**13 < 2**63 < 27**14
    assert build_ngrams(sample_words, tokenizer, 14).distinct() is None
