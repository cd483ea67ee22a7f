"""Defines the benchmark's network in jax, with any number of hidden layers, and its training by `jax.lax.scan`."""

import jax
import jax.numpy as jnp
import numpy as np

V, T, E = 27, 3, 10  # characters, block size, embedding


def initial(rng, n_hidden, n_layers, vocab_size=V):
    """Returns the parameters and running statistics that are carried from one update to the next."""
    widths = [T * E] + [n_hidden] * n_layers
    layers = [
        {
            "weight": rng.normal(size=(fan_in, n_hidden)) * (5 / 3) / fan_in**0.5,
            "gain": np.ones(n_hidden),
            "bias": np.zeros(n_hidden),
        }
        for fan_in in widths[:-1]
    ]
    output = {"weight": rng.normal(size=(n_hidden, vocab_size)) * (2 / (n_hidden + vocab_size)) ** 0.5}
    output["bias"] = np.zeros(vocab_size)
    parameters = {"table": rng.normal(size=(vocab_size, E)), "layers": layers, "output": output}
    running = [(jnp.zeros(n_hidden), jnp.ones(n_hidden)) for _ in range(n_layers)]
    return jax.tree.map(lambda value: jnp.array(value, jnp.float32), parameters), running


def loss_fn(parameters, running, x, y):
    h = parameters["table"][x].reshape(x.shape[0], -1)
    updated = []
    for layer, (mean_before, std_before) in zip(parameters["layers"], running, strict=True):
        h = h @ layer["weight"]
        mean, std = h.mean(0), h.std(0, ddof=1)
        estimates = 0.999 * mean_before + 0.001 * mean, 0.999 * std_before + 0.001 * std
        updated.append(jax.lax.stop_gradient(estimates))
        h = jnp.tanh(layer["gain"] * (h - mean) / (std + 1e-5) + layer["bias"])
    logits = h @ parameters["output"]["weight"] + parameters["output"]["bias"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).mean(), updated


def update(carry, minibatch):
    parameters, running = carry
    x, y, lr = minibatch
    (loss, running), gradients = jax.value_and_grad(loss_fn, has_aux=True)(parameters, running, x, y)
    return (jax.tree.map(lambda value, gradient: value - lr * gradient, parameters, gradients), running), loss


train_block = jax.jit(lambda carry, block: jax.lax.scan(update, carry, block))
