"""Measures the cost of an update by an engine of multistep, in a separate trainer."""

import logging
import time
import warnings

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from multistep import Calls, MultiStep
from ngram_mlp.data import Minibatches, NGrams


class Module(LightningModule):
    """A network of contexts, trained with plain stochastic gradient descent."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Until(Callback):
    """Ends training some seconds after its first tick; it ticks every so many updates."""

    def __init__(self, seconds: float, every: int) -> None:
        self.update_calls = Calls(after=(every,))
        self.seconds = seconds
        self.ticks: list[tuple[float, int]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step % self.update_calls.after[0] == 0:
            if trainer.strategy.root_device.type != "cpu":
                torch.accelerator.synchronize()
            self.ticks.append((time.perf_counter(), trainer.global_step))
            trainer.should_stop = self.ticks[-1][0] - self.ticks[0][0] > self.seconds


def microseconds(
    network: nn.Module, data: NGrams, batch_size: int, engine: str, seconds: float, accelerator: str = "cpu"
) -> float:
    """Returns the microseconds per update after a warm-up until the first tick; drawing minibatches is included."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    until = Until(seconds, max(2, min(1_000, 2**16 // batch_size)))
    trainer = Trainer(
        max_epochs=-1,
        accelerator=accelerator,
        devices=1,
        callbacks=[until, MultiStep(engine)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(network), Minibatches(data, batch_size, torch.Generator()))
    (begin, first), (end, last) = until.ticks[0], until.ticks[-1]
    return (end - begin) / (last - first) * 1e6
