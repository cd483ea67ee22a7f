"""Estimates the memory of an update before it is performed."""

import copy
import os
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from ngram_mlp.models.language_model import LanguageModel

LIMIT_OF_A_CONTAINER = Path("/sys/fs/cgroup/memory.max")


def bytes_of_an_update(model: LanguageModel, batch_size: int) -> int:
    """Returns a low estimate, made on torch's meta device, of the bytes of a minibatch's activations and gradients."""
    storages: list[torch.UntypedStorage] = []  # kept alive, so that no two share an identity

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storages.append(tensor.untyped_storage())
        return tensor

    tensors = [*model.network.parameters(), *model.network.buffers()]  # replaced in the copy, to take no memory
    network = copy.deepcopy(model.network, {id(tensor): on_meta(tensor) for tensor in tensors})
    with torch.device("meta"), saved_tensors_hooks(note, lambda tensor: tensor):
        contexts = torch.zeros(batch_size, model.block_size, dtype=torch.long)
        F.cross_entropy(network(contexts), contexts[:, 0])
    sizes = {storage._cdata: storage.nbytes() for storage in storages}.values()
    return sum(sizes) + 2 * max(sizes)  # a gradient, and the one computed from it


def on_meta(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a tensor like this one without its data; for a parameter, a parameter."""
    bare = tensor.detach().to("meta")
    return torch.nn.Parameter(bare, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else bare


def bytes_of_memory() -> float:
    """Returns the bytes of memory that this process can have, by machine and container; infinite if unknown."""
    limits = [float("inf")]
    with suppress(AttributeError, ValueError, OSError):  # unavailable on Windows
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # no container, or one without a limit
        limits.append(int(LIMIT_OF_A_CONTAINER.read_text()))
    return min(limits)
