"""Times a variant of the default recipe by the fused engine: `python variants.py RECIPE UPDATES`.

RECIPE is `default`, `own step` (label smoothing and a logged accuracy), or the name of an optimizer of `torch.optim`,
with torch's own learning rate. An epoch has some thousands of updates; the first epoch counts as start-up.
"""

import sys

import torch
import torch.nn.functional as F
from trained import time_training

from ngram_mlp import BatchNormMLP, NGramDataModule

RECIPE, UPDATES = sys.argv[1:]


class Smoothed(BatchNormMLP):
    """The default model with label smoothing, and an accuracy logged at every update."""

    def training_step(self, batch, batch_idx):
        contexts, targets = batch
        logits = self(contexts)
        loss = F.cross_entropy(logits, targets, label_smoothing=0.1)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", (logits.argmax(1) == targets).float().mean())
        return loss


torch.manual_seed(0)
data = NGramDataModule()
epoch = len(data.splits["train"].targets) // data.batch_size
kind = Smoothed if RECIPE == "own step" else BatchNormMLP
options = {} if RECIPE in ("default", "own step") else {"optimizer": getattr(torch.optim, RECIPE)}
module = kind(data.vocabulary, data.block_size, **options)
time_training(module, data, "fused", 1 + max(1, int(UPDATES) // epoch))
