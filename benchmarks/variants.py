"""A variant of the default recipe by the fused engine: `python variants.py RECIPE UPDATES`.

RECIPE is `default`, `own step` (label smoothing and a logged accuracy), or an optimizer of `torch.optim` by its
name, with torch's own learning rate. An epoch has some thousands of updates, and the first one is start-up.
"""

import logging
import sys
import warnings

import torch
import torch.nn.functional as F
from measure import Clock
from pytorch_lightning import Callback, Trainer

from multistep import MultiStep
from ngram_mlp import BatchNormMLP, NGramDataModule

RECIPE, UPDATES = sys.argv[1:]


class Smoothed(BatchNormMLP):
    """Label smoothing, and an accuracy that is logged at every update."""

    def training_step(self, batch, batch_idx):
        contexts, targets = batch
        logits = self(contexts)
        loss = F.cross_entropy(logits, targets, label_smoothing=0.1)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", (logits.argmax(1) == targets).float().mean())
        return loss


class Ticks(Callback):
    def __init__(self, clock):
        self.clock = clock

    def on_train_epoch_end(self, trainer, pl_module):
        self.clock.tick(trainer.global_step)


logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")
torch.manual_seed(0)
data = NGramDataModule()
epoch = len(data.splits["train"].targets) // data.batch_size
kind = Smoothed if RECIPE == "own step" else BatchNormMLP
options = {} if RECIPE in ("default", "own step") else {"optimizer": getattr(torch.optim, RECIPE)}
clock = Clock()
trainer = Trainer(
    max_epochs=1 + max(1, int(UPDATES) // epoch),
    accelerator="cpu",
    callbacks=[Ticks(clock), MultiStep("fused")],
    limit_val_batches=0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(kind(data.characters, data.block_size, **options), data)
clock.report()
