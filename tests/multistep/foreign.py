"""Twelve modules as people have them, each with its data, and the engine that trains it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torchmetrics
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

FUSED, EAGER = "fused", "eager"
COUNT, SIZE = 150, 16  # nine minibatches and an odd one


@dataclass
class Foreign:
    make: Callable[[], LightningModule]
    dataset: Callable[[], Any]
    engine: str
    collate: Any = None

    def loader(self, **options: Any) -> DataLoader[Any]:
        options = {"batch_size": SIZE, "shuffle": True, **options}
        return DataLoader(self.dataset(), collate_fn=self.collate or default_collate, **options)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


class Tabular(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.BatchNorm1d(24), nn.Linear(24, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.huber_loss(self.net(x).squeeze(1), y)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/error", (self.net(x).squeeze(1) - y).abs().mean(), on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.huber_loss(self.net(batch[0]).squeeze(1), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class AutoEncoder(LightningModule):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(8, 4), nn.Tanh())
        self.decode = nn.Linear(4, 8)

    def training_step(self, batch, batch_idx):
        code = self.encode(batch["x"])
        loss = F.mse_loss(self.decode(code), batch["x"])
        self.log_dict({"loss": loss, "norm": code.norm()}, on_epoch=True)
        return {"loss": loss, "code": code.detach()}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class WithMetrics(Tabular):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3))
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(3)
        self.mean = torchmetrics.MeanMetric()

    def training_step(self, batch, batch_idx):
        logits, y = self.net(batch[0]), (batch[1] > 0).long()
        loss = F.cross_entropy(logits, y)
        self.mean(loss)
        self.accuracy(logits, y)
        self.log("train/loss", self.mean, on_step=False, on_epoch=True)
        self.log("train/accuracy", self.accuracy, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.cross_entropy(self.net(batch[0]), (batch[1] > 0).long()))


class PhysicsInformed(LightningModule):
    """Fits u with u' = cos x, by the derivative of the network."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))

    def training_step(self, batch, batch_idx):
        x = batch[0][:, :1]
        slope = torch.func.vmap(torch.func.grad(lambda z: self.net(z[None]).squeeze()))(x)
        loss = (slope - x.cos()).square().mean() + self.net(torch.zeros(1, 1)).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.RMSprop(self.parameters(), lr=1e-3)


class Sequences(Tabular):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 1)
        self.rnn = nn.LSTM(2, 6, batch_first=True)

    def training_step(self, batch, batch_idx):
        out, _ = self.rnn(batch[0].view(-1, 4, 2))
        loss = F.mse_loss(self.net(out[:, -1]).squeeze(1), batch[1])
        self.log("train/loss", loss, on_epoch=True)
        return loss

    validation_step = None


class Attending(Sequences):
    def __init__(self):
        super().__init__()
        self.rnn = None
        self.embed = nn.Linear(2, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.net = nn.Linear(8, 1)

    def training_step(self, batch, batch_idx):
        # Attention's keys have a bias without effect, whose gradient is rounding.
        mask = nn.Transformer.generate_square_subsequent_mask(4)
        out = self.block(self.embed(batch[0].view(-1, 4, 2)), src_mask=mask, is_causal=True)
        loss = F.mse_loss(self.net(out[:, -1]).squeeze(1), batch[1])
        self.log("train/loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Images(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 2))

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clamp(-1, 1)


class Binarized(Tabular):
    def training_step(self, batch, batch_idx):
        x = StraightThrough.apply(self.net[0](batch[0]))
        loss = F.mse_loss(self.net[3](x).squeeze(1), batch[1])
        self.log("loss", loss)
        return loss

    validation_step = None


class Annealed(Tabular):
    """Reads how far the training is."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss + 0.1 * min(1.0, self.global_step / 20) * self.net[0].weight.square().mean()


class Branching(Tabular):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if loss < 0.5 else 2 * loss


class Counting(Tabular):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def training_step(self, batch, batch_idx):
        self.seen += len(batch[0])
        return super().training_step(batch, batch_idx) * (1 + 1 / self.seen)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["seen"] = self.seen

    def on_load_checkpoint(self, checkpoint):
        self.seen = checkpoint["seen"]


class FrozenGroups(Tabular):
    def __init__(self):
        super().__init__()
        self.net[0].requires_grad_(False)

    def configure_optimizers(self):
        groups = [
            {"params": list(self.net[0].parameters()), "lr": 0.5},
            {"params": list(self.net[2].parameters()), "lr": 0.02},
            {"params": list(self.net[3].parameters())},
        ]
        return torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-3)


def table() -> TensorDataset:
    x = normal(COUNT, 8)
    return TensorDataset(x, x.sum(1).sin())


def images() -> TensorDataset:
    return TensorDataset(normal(COUNT, 1, 8, 8), torch.arange(COUNT) % 2)


def mappings(items: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    x, y = default_collate(items)
    return {"x": x, "unused": {"y": y}, "kind": "table"}


FOREIGN = {
    "tabular": Foreign(Tabular, table, FUSED),
    "auto-encoder": Foreign(AutoEncoder, table, FUSED, mappings),
    "metrics": Foreign(WithMetrics, table, FUSED),
    "derivative in the loss": Foreign(PhysicsInformed, table, FUSED),
    "LSTM": Foreign(Sequences, table, FUSED),
    "attention": Foreign(Attending, table, FUSED),
    "convolution": Foreign(Images, images, FUSED),
    "custom Function": Foreign(Binarized, table, FUSED),
    "reads global_step": Foreign(Annealed, table, EAGER),
    "branches": Foreign(Branching, table, EAGER),
    "counts": Foreign(Counting, table, EAGER),
    "frozen groups": Foreign(FrozenGroups, table, FUSED),
}
