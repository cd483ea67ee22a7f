"""Chooses the number of threads for an update: measured if several might pay, and kept when a run is resumed."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

# Below this many multiplications in a forward pass, several threads were slower than one in every measurement.
MIGHT_PAY_FROM = 1_000_000
# From this many on, a trial would take seconds; at ten times as many, two threads took 0.6 of the time of one.
PAYS_FROM = 1_000_000_000
# How much faster several threads must be. They wait for each other at every kernel, so another process on one of their
# cores delays all of them, sometimes by many times the time that they save.
GAIN = 1.3
# The ratio of one thread's elapsed time to its processor time above which the machine counts as busy.
BUSY = 1.2
# Seconds per turn for each number of threads, and the number of turns. A scheduler's time slice lasts some
# milliseconds, so a shorter trial may be lucky on a busy machine.
TURN = 0.02
TURNS = 3


def multiplications_in(network: nn.Module, batch_size: int) -> int:
    """Returns an estimate of the multiplications in a forward pass on a minibatch."""
    return batch_size * sum(parameter.numel() for parameter in network.parameters())


def candidates(network: nn.Module, batch_size: int, before: int | None) -> list[int]:
    """Returns the numbers of threads that may be fastest; only one if there is nothing to measure.

    Args:
        batch_size: the number of examples in a minibatch.
        before: the number in the run that is resumed, or None; another number would change the bits of its results.
    """
    present = torch.get_num_threads()
    if os.environ.keys() & {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}:  # set by the user
        return [present]
    if before is not None:
        return [before]
    if any(parameter.device.type != "cpu" for parameter in network.parameters()):  # threads do not matter there
        return [present]
    work = multiplications_in(network, batch_size)
    if work >= PAYS_FROM:
        return [present]
    return [1, present] if present > 1 and work >= MIGHT_PAY_FROM else [1]


def use_fastest(numbers: Sequence[int], trial: Callable[[int], Any]) -> int:
    """Sets torch's number of threads to the first of these, unless another is clearly faster, and returns it.

    Args:
        numbers: the candidates; the first of several is one thread.
        trial: performs a small part of the work; called with the number of threads.
    """
    best = numbers[0]
    if len(numbers) > 1:
        seconds, waits = _measured(numbers, trial)
        if waits > BUSY:
            log.info("threads %d: other processes keep the machine busy", best)
        else:
            best = min(numbers, key=lambda number: seconds[number] * (GAIN if number != numbers[0] else 1.0))
            times = ", ".join(f"{number}: {seconds[number] * 1e3:.2f} ms" for number in numbers)
            log.info("threads %d, chosen from measured times (%s)", best, times)
    torch.set_num_threads(best)
    return best


def _measured(numbers: Sequence[int], trial: Callable[[int], Any]) -> tuple[dict[int, float], float]:
    """Returns seconds per trial by number of threads, from interleaved turns, and the first's wall over CPU time."""
    seconds, trials, processor = dict.fromkeys(numbers, 0.0), dict.fromkeys(numbers, 0), 0.0
    for turn in range(TURNS + 1):
        for number in numbers:
            torch.set_num_threads(number)
            started, used, done = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - started < TURN:
                trial(number)
                done += 1
            if turn > 0:  # the first turn warms up
                seconds[number] += time.perf_counter() - started
                trials[number] += done
                processor += (time.process_time() - used) if number == numbers[0] else 0.0
    return {number: seconds[number] / trials[number] for number in numbers}, seconds[numbers[0]] / processor
