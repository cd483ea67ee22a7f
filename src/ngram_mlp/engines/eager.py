"""The reference engine: the notebooks' loop in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["EagerEngine"]


class EagerEngine:
    """Performs the updates of a block one by one.

    Args:
        network: maps contexts (B, T) to logits (B, vocabulary size).
        optimizer: steps once for each minibatch.
        scheduler: stepped once after each update.
    """

    name = "eager"

    def __init__(self, network: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
        self._network = network
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def run(self, contexts: Tensor, targets: Tensor) -> Tensor:
        """Performs K updates on contexts (K, B, T) and targets (K, B); returns their losses, shape (K,)."""
        losses = []
        for minibatch, target in zip(contexts.unbind(0), targets.unbind(0), strict=True):
            loss = F.cross_entropy(self._network(minibatch), target)
            for parameter in self._parameters:
                parameter.grad = None
            loss.backward()
            self._optimizer.step()
            self._scheduler.step()
            losses.append(loss.detach())
        return torch.stack(losses)
