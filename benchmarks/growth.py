"""How the cost of an update grows: the notebook loop and the fused engine, one network after the other."""

import itertools
import json
import sys
import time
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from ngram_mlp.data import MinibatchStream, NGrams
from ngram_mlp.models.layers import BatchNorm
from ngram_mlp.training import Calls, choose_engine
from ngram_mlp.training.trainer import Chunking, longest_chunk

V, T, E = 27, 3, 10


def network(n_hidden, n_layers):
    widths = [T * E] + [n_hidden] * n_layers
    hidden = [
        layer
        for fan_in, fan_out in itertools.pairwise(widths)
        for layer in (nn.Linear(fan_in, fan_out, bias=False), BatchNorm(fan_out), nn.Tanh())
    ]
    return nn.Sequential(nn.Embedding(V, E), nn.Flatten(), *hidden, nn.Linear(n_hidden, V))


def ngrams(words):
    """As many examples as so many words have, drawn at random: the cost does not depend on what they say."""
    examples = int(words * 0.8 * 7.1)
    contexts = torch.randint(0, V, (examples, T), dtype=torch.uint8)
    return NGrams(contexts, torch.randint(0, V, (examples,), dtype=torch.uint8))


def notebook_loop(model, data, batch_size, seconds):
    """Microseconds an update of a loop as in the notebooks, of parameters that are plain tensors."""
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


def engine(name, model, data, batch_size, seconds):
    """Microseconds an update of an engine with the threads that it chooses, the drawing of minibatches included."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [100_000])
    chunking = Chunking(Calls(), 10**9, longest_chunk(batch_size))
    stream = iter(MinibatchStream(data, batch_size, torch.Generator(), chunking))
    threads = torch.get_num_threads()
    chunk = next(stream)
    chosen = choose_engine(name, model, optimizer, schedule, chunk, 10**9)
    chosen.run(*chunk, 0)
    updates, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        updates += len(chosen.run(*next(stream), 0))
    elapsed = time.perf_counter() - started
    torch.set_num_threads(threads)
    return elapsed / updates * 1e6


def main(repetitions, seconds):
    warnings.simplefilter("ignore")
    sizes = [dict(n_hidden=n) for n in (50, 200, 500, 1000, 2000)]
    sizes += [dict(batch_size=n) for n in (8, 128, 1024)]
    sizes += [dict(n_layers=n) for n in (2, 5, 10)]
    sizes += [dict(words=n) for n in (10_000, 1_000_000, 3_000_000)]
    sizes += [dict(n_hidden=2000, batch_size=1024)]
    for size in sizes:
        chosen = {"n_hidden": 200, "batch_size": 32, "n_layers": 1, "words": 32_033} | size
        data = ngrams(chosen["words"])
        rows = []
        for _ in range(repetitions):
            model = network(chosen["n_hidden"], chosen["n_layers"])
            row = {"notebook": notebook_loop(model, data, chosen["batch_size"], seconds)}
            for name in ("eager", "fused"):
                row[name] = engine(name, model, data, chosen["batch_size"], seconds)
            rows.append(row)
        print(json.dumps(chosen | {name: [row[name] for row in rows] for name in rows[0]}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
