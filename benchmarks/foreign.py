"""Times a LightningModule that knows nothing of this project, by one engine: `foreign.py MODULE ENGINE UPDATES`.

ENGINE is one of multistep's, or `ordinary` for a trainer without its callback. The data are a
`DataLoader(TensorDataset(...), 32, shuffle=True)`. An epoch has 2,000 updates; the first epoch counts as start-up.
"""

import sys

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trained import time_training

MODULE, ENGINE, UPDATES = sys.argv[1:]
EPOCH, SIZE = 2_000, 32


class Tabular(LightningModule):
    """Regression with layer norm, two logged values, and AdamW."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 1))

    def training_step(self, batch, batch_idx):
        predicted = self.net(batch[0]).squeeze(1)
        loss = F.huber_loss(predicted, batch[1])
        self.log("train/loss", loss)
        self.log("train/error", (predicted - batch[1]).abs().mean(), on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class AutoEncoder(Tabular):
    """An auto-encoder with AdamW."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4), nn.Tanh(), nn.Linear(4, 16))

    def training_step(self, batch, batch_idx):
        loss = F.mse_loss(self.net(batch[0]), batch[0])
        self.log("train/loss", loss)
        return loss


class Classifier(Tabular):
    """A perceptron with batch norm, momentum and a cosine schedule."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.net(batch[0]), (batch[1] > 0).long(), label_smoothing=0.1)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100_000)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


torch.set_num_threads(1)
torch.manual_seed(0)
x = torch.randn(EPOCH * SIZE, 16)
module = {"tabular": Tabular, "auto-encoder": AutoEncoder, "classifier": Classifier}[MODULE]()
data = DataLoader(TensorDataset(x, x.sum(1).sin()), SIZE, shuffle=True)
time_training(module, data, ENGINE, 1 + int(UPDATES) // EPOCH)
