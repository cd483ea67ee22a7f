import logging
import multiprocessing
import time

import pytest
import torch
from torch import nn

from ngram_mlp.training import threads


@pytest.fixture(autouse=True)
def several(monkeypatch):
    """Torch may use two threads, and no environment says otherwise."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


SMALL, LARGE = nn.Linear(30, 200), nn.Linear(1_000, 1_000)


def test_several_threads_are_tried_where_they_might_pay():
    assert threads.candidates(SMALL, 32, None) == [1]
    assert threads.candidates(LARGE, 32, None) == [1, 2]


def test_a_run_that_goes_on_keeps_its_number():
    assert threads.candidates(LARGE, 32, 1) == [1]
    assert threads.candidates(SMALL, 32, 2) == [2]


def test_a_number_set_in_the_environment_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads.candidates(SMALL, 32, 1) == [2]


def working(seconds):
    """A trial that keeps the processor busy for so many seconds, by the number of threads."""

    def work(number):
        until = time.perf_counter() + seconds[number]
        while time.perf_counter() < until:
            pass

    return work


@pytest.mark.parametrize(
    ("seconds", "best"), [({1: 4e-3, 2: 1e-3}, 2), ({1: 2e-3, 2: 1.9e-3}, 1), ({1: 1e-3, 2: 5e-3}, 1)]
)
def test_the_number_that_is_clearly_faster_is_taken_and_told(seconds, best, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "ngram_mlp")
    monkeypatch.setattr(threads, "BUSY", 100.0)  # the machine that tests may be
    assert threads.use_fastest([1, 2], working(seconds)) == best
    assert torch.get_num_threads() == best
    assert f"threads {best}, as measured" in caplog.text


def test_where_one_thread_has_to_wait_for_the_processor_it_stays_alone(caplog):
    caplog.set_level(logging.INFO, "ngram_mlp")
    assert threads.use_fastest([1, 2], lambda number: time.sleep(0.002 / number)) == 1
    assert "other processes keep the machine busy" in caplog.text


def test_one_candidate_is_not_tried():
    assert threads.use_fastest([1], pytest.fail) == 1
    assert torch.get_num_threads() == 1


def spin():
    while True:
        pass


@pytest.mark.slow
def test_on_a_busy_machine_one_thread_is_taken():
    spinning = [multiprocessing.get_context("spawn").Process(target=spin, daemon=True) for _ in range(2)]
    for process in spinning:
        process.start()
    network, minibatch = nn.Sequential(nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 512)), torch.randn(256, 512)
    try:
        time.sleep(1)
        assert threads.use_fastest([1, 2], lambda _: network(minibatch).sum().backward()) == 1
    finally:
        for process in spinning:
            process.kill()
