"""How many threads an update is computed with: measured where several might pay, and kept by a resumed run."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

# The multiplications in a forward pass below which several threads were slower than one wherever this was measured.
MIGHT_PAY_FROM = 1_000_000
# Those from which to try it would take seconds; at ten times as many two threads took 0.6 of the time of one.
PAYS_FROM = 1_000_000_000
# How much faster several threads have to be. They wait for each other at every kernel, so that whatever else runs on
# one of their cores holds all of them up, at times for many times as long as they save.
GAIN = 1.3
# How much longer than its processor time one thread may take, until the machine counts as busy.
BUSY = 1.2
# Seconds for which each number of threads is tried at a time, and how often. A scheduler's turns last some
# milliseconds: what is tried for less may be lucky on a busy machine.
TURN = 0.02
TURNS = 3


def multiplications_in(network: nn.Module, batch_size: int) -> int:
    """About how many multiplications a forward pass on a minibatch takes."""
    return batch_size * sum(parameter.numel() for parameter in network.parameters())


def candidates(network: nn.Module, batch_size: int, before: int | None) -> list[int]:
    """The numbers of threads that may be fastest; one alone where nothing is to be measured.

    Args:
        network: which is to be trained.
        batch_size: the examples in a minibatch.
        before: the number of a run that goes on, which would have other bits with another one.
    """
    present = torch.get_num_threads()
    if os.environ.keys() & {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}:  # the user's own
        return [present]
    if before is not None:
        return [before]
    if any(parameter.device.type != "cpu" for parameter in network.parameters()):  # threads do not matter then
        return [present]
    work = multiplications_in(network, batch_size)
    if work >= PAYS_FROM:
        return [present]
    return [1, present] if present > 1 and work >= MIGHT_PAY_FROM else [1]


def use_fastest(numbers: Sequence[int], trial: Callable[[int], Any]) -> int:
    """Lets torch use one of these numbers of threads, the first unless another is clearly faster, and returns it.

    Args:
        numbers: the candidates; the first is one thread.
        trial: does a little of the work with a number of threads.
    """
    best = numbers[0]
    if len(numbers) > 1:
        seconds, waits = _measured(numbers, trial)
        if waits > BUSY:
            log.info("threads %d: other processes keep the machine busy", best)
        else:
            best = min(numbers, key=lambda number: seconds[number] * (GAIN if number != numbers[0] else 1.0))
            times = ", ".join(f"{number}: {seconds[number] * 1e3:.2f} ms" for number in numbers)
            log.info("threads %d, as measured (%s)", best, times)
    torch.set_num_threads(best)
    return best


def _measured(numbers: Sequence[int], trial: Callable[[int], Any]) -> tuple[dict[int, float], float]:
    """Seconds of a trial with each number of threads, from interleaved turns, and how many times its processor time
    the first one took."""
    seconds, trials, processor = dict.fromkeys(numbers, 0.0), dict.fromkeys(numbers, 0), 0.0
    for turn in range(TURNS + 1):
        for number in numbers:
            torch.set_num_threads(number)
            started, used, done = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - started < TURN:
                trial(number)
                done += 1
            if turn > 0:  # the first is for warming up
                seconds[number] += time.perf_counter() - started
                trials[number] += done
                processor += (time.process_time() - used) if number == numbers[0] else 0.0
    return {number: seconds[number] / trials[number] for number in numbers}, seconds[numbers[0]] / processor
