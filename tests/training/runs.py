"""Runs of an engine on the sample corpus, outside Lightning."""

from functools import cache

import torch

from ngram_mlp.data import MinibatchStream, NGramDataModule
from ngram_mlp.models import BatchNormMLP
from ngram_mlp.training import Calls, EagerEngine
from ngram_mlp.training.fused import FusedEngine
from ngram_mlp.training.trainer import Chunking, longest_chunk


@cache
def data() -> NGramDataModule:
    return NGramDataModule("sample")


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def drop(optimizer, at=1_500):
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [at], 0.1)


class Run:
    """A model of its own, its optimizer, and the chunks that it is to be trained on."""

    def __init__(self, engine_class, network=None, optimizer=sgd, schedule=drop, seed=42, model_class=BatchNormMLP):
        torch.manual_seed(seed)
        self.model = model_class(data().characters, 3, optimizer=optimizer, lr_scheduler=schedule)
        if network is not None:
            self.model.network = network()
        self.generator = torch.Generator().set_state(torch.get_rng_state())
        configured = self.model.configure_optimizers()
        self.optimizer = configured["optimizer"]
        self.engine = engine_class(self.model.network, self.optimizer, configured["lr_scheduler"]["scheduler"])
        self.updates = 0

    def train(self, updates, intervals=(300,)):
        chunking = Chunking(Calls(after=tuple(intervals)), self.updates + updates, longest_chunk(32))
        stream = MinibatchStream(data().splits["train"], 32, self.generator, chunking, self.updates)
        losses = []
        for contexts, targets in stream:
            chunk = (contexts, targets) if contexts.dim() == 3 else (contexts[None], targets[None])
            if isinstance(self.engine, FusedEngine) and self.engine._program is None:
                self.engine.compile(*chunk)
            losses.append(self.engine.run(*chunk, self.updates))
            self.updates += len(losses[-1])
        return torch.cat(losses)

    def hand_over(self, engine_class):
        """Goes on with another engine on the same network and optimizer."""
        self.engine = engine_class(self.model.network, self.optimizer, self.engine._scheduler)


def agree(eager: Run, fused: Run, tolerance=1e-4):
    """Weights and buffers agree, relative to their size."""
    for (name, expected), found in zip(
        eager.model.state_dict().items(), fused.model.state_dict().values(), strict=True
    ):
        scale = expected.abs().max().clamp(min=1e-3)
        assert ((expected - found).abs().max() / scale) < tolerance, name


__all__ = ["EagerEngine", "FusedEngine", "Run", "agree", "data", "drop", "sgd"]
