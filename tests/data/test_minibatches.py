from itertools import accumulate

import pytest
import torch

from ngram_mlp.data import MinibatchStream, Vocabulary, build_ngrams
from ngram_mlp.training import Calls
from ngram_mlp.training.trainer import Chunking, longest_chunk


def ngrams(sample_words):
    words = sample_words[:400]
    return build_ngrams(words, Vocabulary.of_words(words), 3)


def stream(sample_words, intervals=(), last=1_234, batch_size=8, generator=None, first=0, around=None):
    generator = generator or torch.Generator().manual_seed(7)
    around = None if around is None else tuple(around)
    chunking = Chunking(Calls(tuple(intervals), around=around), last, longest_chunk(batch_size))
    return MinibatchStream(ngrams(sample_words), batch_size, generator, chunking, first)


def updates_in(contexts):
    """A chunk of one update comes as an ordinary minibatch."""
    return len(contexts) if contexts.dim() == 3 else 1


def test_minibatches_are_those_of_one_randint_call_each(sample_words):
    data = ngrams(sample_words)
    generator = torch.Generator().manual_seed(7)
    update = 0
    for contexts, targets in stream(sample_words, intervals=[100, 77]):
        for minibatch, target in zip(contexts.view(-1, 8, 3), targets.view(-1, 8), strict=True):
            ix = torch.randint(0, len(data), (8,), generator=generator)
            assert minibatch.equal(data.contexts[ix].long())
            assert target.equal(data.targets[ix].long())
            update += 1
    assert update == 1_234


def test_chunks_end_at_every_multiple_of_every_interval_and_at_the_last_update(sample_words):
    ends, update = [], 0
    for contexts, _ in stream(sample_words, intervals=[300, 450]):
        update += updates_in(contexts)
        ends.append(update)
    assert ends == [300, 450, 600, 900, 1000, 1200, 1234]


@pytest.mark.parametrize("around", [[500], [400, 500], []])
def test_an_update_that_is_observed_and_the_last_one_are_chunks_of_their_own(around, sample_words):
    update, alone = 0, set()
    for contexts, _ in stream(sample_words, intervals=[300], around=around):
        if updates_in(contexts) == 1:
            alone.add(update)
        update += updates_in(contexts)
    assert update == 1_234
    assert alone == {n for n in range(1_234) if any(n % every == 0 for every in around)} | {1_233}


def test_every_update_may_be_observed(sample_words):
    batches = list(stream(sample_words, last=5, around=[1]))
    assert [contexts.shape for contexts, _ in batches] == [(8, 3)] * 5
    assert [targets.shape for _, targets in batches] == [(8,)] * 5


def test_a_chunk_begins_right_before_an_update_that_ends_at_a_multiple(sample_words):
    chunking = Chunking(Calls(before=(50,)), 200, 1_000)
    chunks = MinibatchStream(ngrams(sample_words), 8, torch.Generator().manual_seed(7), chunking)
    assert list(accumulate(updates_in(contexts) for contexts, _ in chunks)) == [49, 99, 149, 199, 200]


@pytest.mark.parametrize("singly", [False, True])
def test_the_minibatches_that_an_update_accumulates_are_the_next_ones(singly, sample_words):
    plain = stream(sample_words, last=12)
    chunking = Chunking(Calls(after=(2,)), 4, 1 if singly else 1_000, minibatches=3, singly=singly)
    data, generator = ngrams(sample_words), torch.Generator().manual_seed(7)
    accumulating = MinibatchStream(data, 8, generator, chunking)
    batches = [contexts for contexts, _ in accumulating]
    assert [len(contexts) for contexts in batches] == ([8] * 12 if singly else [6, 6])
    (expected, _) = next(iter(plain))
    assert torch.cat(batches).view(12, 8, 3).equal(expected)
    assert accumulating.generator_state(4).equal(generator.get_state())


def test_large_minibatches_come_in_short_chunks(sample_words):
    lengths = [len(contexts) for contexts, _ in stream(sample_words, batch_size=4096, last=20)]
    assert lengths == [16, 4]


def test_a_stream_goes_on_from_a_saved_state_although_chunks_were_fetched_ahead(sample_words):
    whole = list(stream(sample_words, intervals=[100]))
    first = stream(sample_words, intervals=[100])
    fetched = iter(first)
    for _ in range(4):
        next(fetched)  # the trainer has trained on three chunks when it has fetched four
    state = first.generator_state(300)
    rest = list(stream(sample_words, [100], generator=torch.Generator().set_state(state), first=300))
    assert len(rest) == len(whole) - 3
    for (contexts, targets), (expected_contexts, expected_targets) in zip(rest, whole[3:], strict=True):
        assert contexts.equal(expected_contexts)
        assert targets.equal(expected_targets)
