"""Trains the default network in Keras 3 on jax, 50 steps per execution: the likely alternative to this project."""

import os
import random
import sys

os.environ |= {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}

import keras
import numpy as np
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
X, Y = np.array(X, np.int32), np.array(Y, np.int32)

keras.utils.set_random_seed(2147483647)
network = keras.Sequential(
    [
        keras.layers.Embedding(len(stoi), 10),
        keras.layers.Flatten(),
        keras.layers.Dense(200, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.Activation("tanh"),
        keras.layers.Dense(len(stoi)),
    ]
)
network.compile(
    optimizer=keras.optimizers.SGD(0.1),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    steps_per_execution=50,
    jit_compile=True,
)
clock = Clock()
epoch = len(X) // 32 + 1


class Ticks(keras.callbacks.Callback):
    def on_epoch_end(self, number, logs=None):
        clock.tick((number + 1) * epoch)


network.fit(X, Y, batch_size=32, epochs=max(2, 1 + UPDATES // epoch), verbose=0, callbacks=[Ticks()])
clock.report()
