"""A context fused pair by pair, as the lecture after the notebooks has it: plain tensors."""

import torch

from tests.reference.notebook import Notebook


class Tree(Notebook):
    """Linear layers without biases, batch norm by the variance over examples and positions, tanh; SGD.

    Every stage keeps the positions: (B, T, C) becomes (B, T / 2, n_hidden), at last (B, 1, n_hidden). The loop, the
    evaluation and the sampling are those of the notebooks.
    """

    def __init__(self, seed, vocab_size, block_size=8, n_embd=24, n_hidden=128):
        g = self.g = torch.Generator().manual_seed(seed)
        self.block_size = block_size
        self.C = torch.randn((vocab_size, n_embd), generator=g)
        self.stages, width, positions = [], n_embd, block_size
        while positions > 1:
            W = torch.randn((2 * width, n_hidden), generator=g) / (2 * width) ** 0.5
            norm = {"gain": torch.ones(n_hidden), "bias": torch.zeros(n_hidden)}
            self.stages.append({"W": W, **norm, "mean": torch.zeros(n_hidden), "var": torch.ones(n_hidden)})
            width, positions = n_hidden, positions // 2
        self.W = torch.randn((n_hidden, vocab_size), generator=g) / n_hidden**0.5 * 0.1
        self.b = torch.zeros(vocab_size)
        trained = [stage[key] for stage in self.stages for key in ("W", "gain", "bias")]
        self.parameters = [self.C, *trained, self.W, self.b]
        for p in self.parameters:
            p.requires_grad = True

    def logits(self, x, training):
        h = self.C[x]
        for stage in self.stages:
            pairs = torch.cat([h[:, 0::2], h[:, 1::2]], dim=2)
            stage["linear"] = pairs @ stage["W"]
            mean, var = stage["mean"], stage["var"]
            if training:
                mean, var = stage["linear"].mean((0, 1)), stage["linear"].var((0, 1))
                with torch.no_grad():
                    stage["mean"] = 0.9 * stage["mean"] + 0.1 * mean
                    stage["var"] = 0.9 * stage["var"] + 0.1 * var
            h = torch.tanh(stage["gain"] * (stage["linear"] - mean) / torch.sqrt(var + 1e-5) + stage["bias"])
            stage["tanh"] = h
        return h[:, 0] @ self.W + self.b
