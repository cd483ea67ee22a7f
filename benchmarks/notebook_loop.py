"""Runs the bare loop of cell 11 of notebook 002 as its users do: plain tensors, no class, no framework."""

import random
import sys

import torch
import torch.nn.functional as F
from measure import Clock, words

UPDATES = int(sys.argv[1])

names = words()
stoi = {character: i + 1 for i, character in enumerate(sorted(set("".join(names))))} | {".": 0}
random.seed(42)
random.shuffle(names)
X, Y = [], []
for word in names[: int(0.8 * len(names))]:
    context = [0] * 3
    for character in word + ".":
        X.append(context)
        Y.append(stoi[character])
        context = [*context[1:], stoi[character]]
X, Y = torch.tensor(X), torch.tensor(Y)

g = torch.Generator().manual_seed(2147483647)
C = torch.randn((len(stoi), 10), generator=g)
W1 = torch.randn((30, 200), generator=g) * (5 / 3) / 30**0.5
W2 = torch.randn((200, len(stoi)), generator=g) * (2 / (200 + len(stoi))) ** 0.5
b2 = torch.rand(len(stoi), generator=g) / len(stoi) ** 0.5
gain, bias = torch.ones((1, 200)), torch.zeros((1, 200))
mean_running, std_running = torch.zeros((1, 200)), torch.ones((1, 200))
parameters = [C, W1, W2, b2, gain, bias]
for p in parameters:
    p.requires_grad = True

clock = Clock()
losses = []
for i in range(UPDATES):
    ix = torch.randint(0, X.shape[0], (32,), generator=g)
    Xb, Yb = X[ix], Y[ix]
    emb = C[Xb]
    hpreact = emb.view(emb.shape[0], -1) @ W1
    mean, std = hpreact.mean(0, keepdim=True), hpreact.std(0, keepdim=True)
    hpreact = gain * (hpreact - mean) / (std + 1e-5) + bias
    with torch.no_grad():
        mean_running = 0.999 * mean_running + 0.001 * mean
        std_running = 0.999 * std_running + 0.001 * std
    loss = F.cross_entropy(torch.tanh(hpreact) @ W2 + b2, Yb)
    for p in parameters:
        p.grad = None
    loss.backward()
    lr = 0.1 if i < 100_000 else 0.01
    for p in parameters:
        p.data += -lr * p.grad
    losses.append(loss.log10().item())
    if i % 1000 == 0 or i == UPDATES - 1:
        clock.tick(i + 1)
clock.report()
