"""Which accelerator trains where the choice is left to this package."""

import logging

import torch
from torch import nn

log = logging.getLogger(__name__)

# The multiplications in a forward pass from which a GPU pays, measured by benchmarks/accelerators.py. Eager updates of
# a smaller network are bound by launching a hundred kernels, and the fused engine takes as long or less on a CPU.
GPU_PAYS_FROM = 50_000_000


def resolve_accelerator(accelerator: str, devices: int | str | list[int], network: nn.Module, batch_size: int) -> str:
    """The accelerator for `auto`: the CPU for networks that are too small to pay on a GPU, else Lightning's choice.

    Args:
        accelerator: as Lightning's trainer takes it; whatever else it names, is taken.
        devices: as Lightning's trainer takes them; where several are asked for, Lightning chooses.
        network: which is to be trained.
        batch_size: the examples in a minibatch.
    """
    if (
        accelerator != "auto"
        or str(devices) not in ("auto", "1")
        or not (torch.cuda.is_available() or torch.mps.is_available())
    ):
        return accelerator
    multiplications = batch_size * sum(parameter.numel() for parameter in network.parameters())
    if multiplications >= GPU_PAYS_FROM:
        return accelerator
    log.info(
        "accelerator  cpu: a GPU pays from about %s million multiplications in a forward pass on, this network has "
        "%.1f million; accelerator gpu takes it",
        GPU_PAYS_FROM // 1_000_000,
        multiplications / 1e6,
    )
    return "cpu"
