"""Measures the cost of an update in jax, in microseconds: `growth_jax.py SECONDS SIZE ...`, sizes as in sizes.py."""

import json
import sys
import time

import numpy as np
from jax_network import T, initial, train_block
from sizes import block_of, named

SECONDS, *NETWORKS = sys.argv[1:]
for text in NETWORKS:
    size = named(text)
    rng = np.random.default_rng(0)
    block = block_of(size["batch_size"])
    shape = (block, size["batch_size"])
    minibatches = (
        rng.integers(0, size["vocab_size"], (*shape, T)).astype(np.int32),
        rng.integers(0, size["vocab_size"], shape).astype(np.int32),
        np.full(block, 0.01, np.float32),
    )
    carry, losses = train_block(initial(rng, size["n_hidden"], size["n_layers"], size["vocab_size"]), minibatches)
    losses.block_until_ready()
    updates, started = 0, time.perf_counter()
    while time.perf_counter() - started < float(SECONDS):
        carry, losses = train_block(carry, minibatches)
        losses.block_until_ready()
        updates += block
    print(json.dumps(size | {"microseconds": (time.perf_counter() - started) / updates * 1e6}), flush=True)
