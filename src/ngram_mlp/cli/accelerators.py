"""Chooses the accelerator if the user leaves the choice to this package."""

import logging

import torch
from torch import nn

log = logging.getLogger(__name__)

# A GPU pays from this many multiplications per forward pass (benchmarks/accelerators.py). In smaller networks,
# launching a hundred kernels dominates an eager update, and the fused engine is at least as fast on a CPU.
GPU_PAYS_FROM = 50_000_000


def resolve_accelerator(accelerator: str, devices: int | str | list[int], network: nn.Module, batch_size: int) -> str:
    """Returns the accelerator for `auto`: the CPU for networks too small to pay on a GPU, else Lightning's choice.

    Any other accelerator is returned unchanged. If several devices are requested, Lightning chooses.
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
        "accelerator  cpu: a GPU pays off from about %s million multiplications per forward pass; this network has "
        "%.1f million. Use --trainer.accelerator gpu to force it",
        GPU_PAYS_FROM // 1_000_000,
        multiplications / 1e6,
    )
    return "cpu"
