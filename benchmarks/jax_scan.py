"""The same updates as one `jax.lax.scan` of 500 minibatches, compiled by `jax.jit`."""

import random
import sys

import jax
import jax.numpy as jnp
import numpy as np
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
V = len(stoi)
parameters = {
    "C": rng.normal(size=(V, 10)),
    "W1": rng.normal(size=(30, 200)) * (5 / 3) / 30**0.5,
    "W2": rng.normal(size=(200, V)) * (2 / (200 + V)) ** 0.5,
    "b2": rng.uniform(size=V) / V**0.5,
    "gain": np.ones(200),
    "bias": np.zeros(200),
}
parameters = {name: jnp.array(value, jnp.float32) for name, value in parameters.items()}
running = (jnp.zeros(200), jnp.ones(200))


def loss_fn(p, running, x, y):
    hpreact = p["C"][x].reshape(x.shape[0], -1) @ p["W1"]
    mean, std = hpreact.mean(0), hpreact.std(0, ddof=1)
    running = jax.lax.stop_gradient((0.999 * running[0] + 0.001 * mean, 0.999 * running[1] + 0.001 * std))
    logits = jnp.tanh(p["gain"] * (hpreact - mean) / (std + 1e-5) + p["bias"]) @ p["W2"] + p["b2"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).mean(), running


def update(carry, minibatch):
    p, running = carry
    x, y, lr = minibatch
    (loss, running), gradients = jax.value_and_grad(loss_fn, has_aux=True)(p, running, x, y)
    return (jax.tree.map(lambda value, gradient: value - lr * gradient, p, gradients), running), loss


train_block = jax.jit(lambda carry, block: jax.lax.scan(update, carry, block))

clock = Clock()
carry, losses = (parameters, running), []
for first in range(0, UPDATES, BLOCK):
    ix = rng.integers(0, len(X), (BLOCK, 32))
    rates = np.full(BLOCK, 0.1 if first < 100_000 else 0.01, np.float32)
    carry, block_losses = train_block(carry, (X[ix], Y[ix], rates))
    losses.append(np.asarray(block_losses))
    clock.tick(first + BLOCK)
clock.report()
