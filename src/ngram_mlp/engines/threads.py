"""How many threads an engine gets: small networks train faster on one."""

import os

import torch

__all__ = ["limit_threads"]


def limit_threads(multiplications: int, worth_sharing: int) -> None:
    """Lets torch use one thread where an update is too small for several to pay.

    A number of threads that the user has set in the environment stays.

    Args:
        multiplications: of a forward pass, about: the minibatch's examples times the network's parameters.
        worth_sharing: the multiplications from which on torch's own number of threads is the faster one.
    """
    if multiplications < worth_sharing and not os.environ.keys() & {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}:
        torch.set_num_threads(1)
