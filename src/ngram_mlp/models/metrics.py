"""Measures how well a model predicts a split."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from ngram_mlp.data import NGrams, SplitBatches

LARGEST_TABLE = 2**24  # elements
TRAIN_LOSS, VAL_LOSS = "train/loss", "val/loss"  # their names in the logs


class PredictionMetric(Metric):
    """Computes loss, perplexity and accuracy of next-token predictions over batches of any size.

    `compute` returns `loss`, the mean cross-entropy in nats over all examples; `perplexity`, its exponential; and
    `accuracy`, the fraction of examples whose most probable token is the target.
    """

    full_state_update = False
    loss_sum: Tensor
    correct: Tensor
    examples: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # float32, because Apple's GPUs lack float64. Adding one sum per batch keeps the rounding error small.
        self.add_state("loss_sum", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("correct", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("examples", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Adds a batch of logits (n, vocabulary size) and targets (n,)."""
        logits = logits.float() if logits.itemsize < 4 else logits  # 16 bits are too few for a sum
        self.loss_sum += F.cross_entropy(logits, targets, reduction="sum")
        self.correct += (logits.argmax(dim=1) == targets).sum()
        self.examples += len(targets)

    def compute(self) -> dict[str, Tensor]:
        loss = self.loss_sum / self.examples
        return {"loss": loss, "perplexity": loss.exp(), "accuracy": self.correct / self.examples}


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Puts the network into evaluation mode, then back into its previous mode."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


@torch.no_grad()
def evaluate(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> dict[str, float]:
    """Returns the metrics of a network in evaluation mode over batches of (contexts, targets)."""
    metric = PredictionMetric(sync_on_compute=False).to(device)
    with evaluation_mode(network):
        for contexts, targets in batches:
            metric.update(network(contexts.to(device)), targets.to(device))
    return {name: float(value) for name, value in metric.compute().items()}


@torch.no_grad()
def target_probabilities(model: LightningModule, batches: Iterable[tuple[Tensor, Tensor]]) -> NDArray[np.float64]:
    """Returns the probability of each target, (N,), under a model in evaluation mode."""
    found = [model(contexts).double().softmax(1).gather(1, targets[:, None]) for contexts, targets in batches]
    return torch.cat(found)[:, 0].numpy()


@torch.no_grad()
def tabulated(network: nn.Module, ngrams: NGrams, device: torch.device) -> tuple[nn.Module, SplitBatches]:
    """Returns a network and batches that give the same metrics for a split, faster if contexts repeat.

    The network is a table of the logits of the distinct contexts, and an example's context is its row there. The given
    network is returned unchanged if a table would not pay, or if logits depend on other examples in the batch; the
    first batch shows that.
    """
    batches, distinct = SplitBatches(ngrams), ngrams.distinct()
    if distinct is None or len(distinct[0]) > len(ngrams) / 2:
        return network, batches
    contexts, which = distinct
    with evaluation_mode(network):
        first, _ = next(iter(batches))
        expected = network(first.to(device))
        if len(contexts) * expected.shape[1] > LARGEST_TABLE:
            return network, batches
        logits = torch.cat([network(batch.to(device)) for batch in torch.split(contexts.long(), len(first))])
    if not torch.allclose(logits[which[: len(first)].to(device)], expected, rtol=1e-3, atol=1e-4):
        return network, batches
    table = nn.Embedding(len(logits), logits.shape[1], _weight=logits)
    return table, SplitBatches(NGrams(which, ngrams.targets), 4 * len(first))
