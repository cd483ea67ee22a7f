"""Performs the same updates as `jax.lax.scan`s of 500 minibatches, compiled by `jax.jit`."""

import random
import sys

import numpy as np
from jax_network import initial, train_block
from measure import Clock, words

UPDATES = int(sys.argv[1])
BLOCK = 500

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
X, Y = np.array(X, np.int32), np.array(Y, np.int32)

rng = np.random.default_rng(2147483647)
carry, losses = initial(rng, n_hidden=200, n_layers=1), []
clock = Clock()
for first in range(0, UPDATES, BLOCK):
    ix = rng.integers(0, len(X), (BLOCK, 32))
    rates = np.full(BLOCK, 0.1 if first < 100_000 else 0.01, np.float32)
    carry, block_losses = train_block(carry, (X[ix], Y[ix], rates))
    losses.append(np.asarray(block_losses))
    clock.tick(first + BLOCK)
clock.report()
