import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ngram_mlp.data import Minibatches, Tokenizer, build_ngrams


@pytest.fixture(scope="module")
def ngrams(sample_words):
    words = sample_words[:40]
    return build_ngrams(words, Tokenizer.of_lines(words), 3)


def seeded():
    return torch.Generator().manual_seed(7)


def minibatches(loader, epochs=1):
    return [minibatch for _ in range(epochs) for minibatch in loader]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for (contexts, targets), (expected_contexts, expected_targets) in zip(found, expected, strict=True):
        assert contexts.equal(expected_contexts)
        assert targets.equal(expected_targets)


def test_minibatches_are_those_of_one_randint_call_each_over_all_epochs(ngrams):
    loader, generator = Minibatches(ngrams, 8, seeded()), seeded()
    assert len(loader) == len(ngrams) // 8
    found = minibatches(loader, epochs=3)
    assert len(found) == 3 * len(loader)
    for contexts, targets in found:
        drawn = torch.randint(0, len(ngrams), (8,), generator=generator)
        assert contexts.equal(ngrams.contexts[drawn].long())
        assert targets.equal(ngrams.targets[drawn].long())


def test_a_minibatch_may_be_larger_than_the_split(ngrams):
    ((contexts, _),) = Minibatches(ngrams, 10_000, seeded())
    assert contexts.shape == (10_000, 3)


def test_epochs_go_through_the_split_as_a_shuffling_dataloader_does(ngrams):
    loader, generator = Minibatches(ngrams, 8, seeded(), "epochs"), seeded()
    examples = TensorDataset(ngrams.contexts.long(), ngrams.targets.long())
    expected = []
    for _ in range(2):
        order = torch.randperm(len(ngrams), generator=generator).tolist()
        expected += [tuple(minibatch) for minibatch in DataLoader(examples, 8, sampler=order)]
    assert len(loader) * 2 == len(expected)
    assert_equal(minibatches(loader, epochs=2), expected)


def test_an_epoch_leaves_out_a_single_last_example_over_which_nothing_has_a_spread(ngrams):
    for count, size, sizes in ((17, 8, [8, 8]), (18, 8, [8, 8, 2]), (3, 1, [1, 1, 1]), (1, 8, [1])):
        loader = Minibatches(ngrams.some(count), size, seeded(), "epochs")
        assert [len(targets) for _, targets in loader] == sizes
        assert len(loader) == len(sizes)


@pytest.mark.parametrize("sampling", ["replacement", "epochs"])
@pytest.mark.parametrize("chunks", [[1, 5, 2], [9], [3, 3, 3]])
def test_minibatches_may_be_drawn_several_at_a_time(ngrams, sampling, chunks):
    expected = minibatches(Minibatches(ngrams, 8, seeded(), sampling))
    epoch = iter(Minibatches(ngrams, 8, seeded(), sampling))
    found = [minibatch for n in chunks for minibatch in zip(*epoch.draw_minibatches(n), strict=True)]
    assert_equal([*found, *epoch], expected)


@pytest.mark.parametrize("sampling", ["replacement", "epochs"])
@pytest.mark.parametrize("over", [0, 3, 20])
@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("waits", [False, True])
def test_a_saved_state_continues_with_the_minibatch_that_would_have_come(ngrams, sampling, over, chunk, waits):
    whole = minibatches(Minibatches(ngrams, 8, seeded(), sampling), epochs=2)
    waiting = []
    first = Minibatches(ngrams, 8, seeded(), sampling, is_waiting=lambda: bool(waiting))
    epoch = iter(first)
    for done in range(0, over, chunk):
        epoch.draw_minibatches(min(chunk, over - done))
    if waits:  # a trainer has fetched it, and is interrupted before it trains on it
        next(epoch)
        waiting.append(True)
    resumed = Minibatches(ngrams, 8, torch.Generator(), sampling)
    resumed.load_state_dict(first.state_dict())
    rest = iter(resumed)
    found = [next(rest) for _ in range(len(resumed) - over)]
    assert_equal([*found, *resumed], whole[over:])


def test_the_state_at_the_end_of_an_epoch_begins_the_next(ngrams):
    loader = Minibatches(ngrams, 8, seeded(), "epochs")
    minibatches(loader)
    resumed = Minibatches(ngrams, 8, torch.Generator(), "epochs")
    resumed.load_state_dict(loader.state_dict())
    assert_equal(minibatches(resumed), minibatches(loader))


@pytest.mark.parametrize("sampling", ["replacement", "epochs"])
def test_several_processes_share_each_minibatch(ngrams, sampling):
    whole = minibatches(Minibatches(ngrams, 8, seeded(), sampling))
    parts = [minibatches(Minibatches(ngrams, 8, seeded(), sampling, part=(rank, 2))) for rank in range(2)]
    together = [tuple(map(torch.cat, zip(*pair, strict=True))) for pair in zip(*parts, strict=True)]
    assert_equal(together, whole[: len(ngrams) // 8])


def test_an_epoch_that_the_trainer_ends_earlier_is_over_in_a_saved_state_too(ngrams):
    def loader():
        return Minibatches(ngrams, 8, seeded(), "epochs", most=lambda: 3)

    whole, cut, resumed = loader(), loader(), loader()
    expected = minibatches(whole, epochs=3)
    assert len(expected) == 9
    minibatches(cut)
    resumed.load_state_dict(cut.state_dict())
    assert_equal(minibatches(resumed, epochs=2), expected[3:])
