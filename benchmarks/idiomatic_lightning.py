"""Trains the same network as Lightning's documentation teaches: DataLoader, automatic optimization, self.log."""

import random
import sys
import tempfile

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from measure import Clock, words
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from ngram_mlp.data import Tokenizer, build_ngrams
from ngram_mlp.models.layers import BatchNorm

UPDATES = int(sys.argv[1])


class Model(pl.LightningModule):
    def __init__(self, vocab_size):
        super().__init__()
        self.network = nn.Sequential(
            nn.Embedding(vocab_size, 10),
            nn.Flatten(),
            nn.Linear(30, 200, bias=False),
            BatchNorm(200),
            nn.Tanh(),
            nn.Linear(200, vocab_size),
        )

    def training_step(self, batch, batch_idx):
        contexts, targets = batch
        loss = F.cross_entropy(self.network(contexts), targets)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[100_000], gamma=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Ticks(pl.Callback):
    def __init__(self, clock):
        self.clock = clock

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step % 500 == 0 or trainer.global_step == 1:
            self.clock.tick(trainer.global_step)


names = words()
tokenizer = Tokenizer.of_lines(names)
random.seed(42)
random.shuffle(names)
ngrams = build_ngrams(names[: int(0.8 * len(names))], tokenizer, 3)
dataset = TensorDataset(ngrams.contexts.long(), ngrams.targets.long())
sampler = RandomSampler(dataset, replacement=True, num_samples=32 * UPDATES)
clock = Clock()
with tempfile.TemporaryDirectory() as folder:
    trainer = pl.Trainer(
        max_steps=UPDATES,
        accelerator="cpu",
        logger=pl.loggers.TensorBoardLogger(folder),
        callbacks=[Ticks(clock)],
        enable_model_summary=False,
    )
    pl.seed_everything(2147483647)
    trainer.fit(Model(len(tokenizer)), DataLoader(dataset, batch_size=32, sampler=sampler))
clock.report()
