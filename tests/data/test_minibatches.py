import pytest
import torch

from ngram_mlp.data import MinibatchStream, Vocabulary, build_ngrams
from ngram_mlp.training.trainer import Calls, Chunking, longest_chunk


def ngrams(sample_words):
    words = sample_words[:400]
    return build_ngrams(words, Vocabulary.of_words(words), 3)


def stream(sample_words, intervals=(), last=1_234, batch_size=8, generator=None, first=0, around=None):
    generator = generator or torch.Generator().manual_seed(7)
    around = None if around is None else tuple(around)
    chunking = Chunking(Calls(tuple(intervals), around), last, longest_chunk(batch_size))
    return MinibatchStream(ngrams(sample_words), batch_size, generator, chunking, first)


def test_minibatches_are_those_of_one_randint_call_each(sample_words):
    data = ngrams(sample_words)
    generator = torch.Generator().manual_seed(7)
    update = 0
    for contexts, targets in stream(sample_words, intervals=[100, 77]):
        for minibatch, target in zip(contexts, targets, strict=True):
            ix = torch.randint(0, len(data), (8,), generator=generator)
            assert minibatch.equal(data.contexts[ix].long())
            assert target.equal(data.targets[ix].long())
            update += 1
    assert update == 1_234


def test_chunks_end_at_every_multiple_of_every_interval_and_at_the_last_update(sample_words):
    ends, update = [], 0
    for contexts, _ in stream(sample_words, intervals=[300, 450]):
        update += len(contexts)
        ends.append(update)
    assert ends == [300, 450, 600, 900, 1000, 1200, 1234]


@pytest.mark.parametrize("around", [[500], [400, 500], []])
def test_an_update_that_is_observed_and_the_last_one_are_chunks_of_their_own(around, sample_words):
    update, alone = 0, set()
    for contexts, _ in stream(sample_words, intervals=[300], around=around):
        if len(contexts) == 1:
            alone.add(update)
        update += len(contexts)
    assert update == 1_234
    assert alone == {n for n in range(1_234) if any(n % every == 0 for every in around)} | {1_233}


def test_every_update_may_be_observed(sample_words):
    assert [len(contexts) for contexts, _ in stream(sample_words, last=5, around=[1])] == [1] * 5


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
