"""Measures the cost of an update in a notebook loop or by an engine: `growth.py PEER SECONDS SIZE ...` (sizes.py)."""

import itertools
import json
import sys
import time
import warnings

import torch
import torch.nn.functional as F
from engines import microseconds
from sizes import named
from torch import nn

from ngram_mlp.data import NGrams
from ngram_mlp.models.layers import BatchNorm

T, E = 3, 10
EXAMPLES = 180_000


def network(n_hidden, n_layers, vocab_size):
    widths = [T * E] + [n_hidden] * n_layers
    hidden = [
        layer
        for fan_in, fan_out in itertools.pairwise(widths)
        for layer in (nn.Linear(fan_in, fan_out, bias=False), BatchNorm(fan_out), nn.Tanh())
    ]
    return nn.Sequential(nn.Embedding(vocab_size, E), nn.Flatten(), *hidden, nn.Linear(n_hidden, vocab_size))


def notebook_loop(model, data, batch_size, seconds):
    """Returns the microseconds per update of a loop as in the notebooks, with plain tensors as parameters."""
    table, output = model[0].weight, model[-1]
    layers = [(model[i].weight, model[i + 1]) for i in range(2, len(model) - 1, 3)]
    running = [(torch.zeros_like(norm.gain), torch.ones_like(norm.gain)) for _, norm in layers]
    parameters = list(model.parameters())
    X, Y = data.contexts.long(), data.targets.long()
    updates, started = 0, None
    while started is None or time.perf_counter() - started < seconds:
        if updates == 20:  # warmed up
            started = time.perf_counter()
        ix = torch.randint(0, len(Y), (batch_size,))
        h = table[X[ix]].view(batch_size, -1)
        for i, (weight, norm) in enumerate(layers):
            h = h @ weight.T
            mean, std = h.mean(0, keepdim=True), h.std(0, keepdim=True)
            h = torch.tanh(norm.gain * (h - mean) / (std + 1e-5) + norm.bias)
            with torch.no_grad():
                running[i] = (0.999 * running[i][0] + 0.001 * mean, 0.999 * running[i][1] + 0.001 * std)
        loss = F.cross_entropy(h @ output.weight.T + output.bias, Y[ix])
        for p in parameters:
            p.grad = None
        loss.backward()
        for p in parameters:
            p.data += -0.01 * p.grad
        loss.item()
        updates += 1
    return (time.perf_counter() - started) / (updates - 20) * 1e6


def main(peer, seconds, *networks):
    warnings.simplefilter("ignore")
    for text in networks:
        size = named(text)
        vocab_size, batch_size = size["vocab_size"], size["batch_size"]
        model = network(size["n_hidden"], size["n_layers"], vocab_size)
        contexts = torch.randint(0, vocab_size, (EXAMPLES, T))  # their values do not affect the cost
        data = NGrams(contexts, torch.randint(0, vocab_size, (EXAMPLES,)))
        if peer == "notebook":
            found = notebook_loop(model, data, batch_size, float(seconds))
        else:
            found = microseconds(model, data, batch_size, peer, float(seconds))
        print(json.dumps(size | {"microseconds": found}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
