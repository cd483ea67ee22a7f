"""Draws networks with and without mistakes at random, for `verdicts.py`."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UPDATES = 20_000
SIZES = [(1, 200, 10), (2, 100, 10), (5, 100, 10), (10, 50, 10)]  # hidden layers, units in each, embedding
KAIMING = "normal * gain / sqrt(fan_in)"
MISTAKES: dict[str, list[Any]] = {
    "hidden_weight": ["normal", "normal", "normal * 4 / sqrt(fan_in)", "normal * 0.01"],
    "output_weight": ["normal", "normal * 0.5", "normal * 3"],
    "lr": [100, 30, 10, 3, 0.1, 0.03, 0.01, 0.001],  # times a suitable rate
    "batch_size": [2, 4, 512, 1024],
    "corpus": ["5000", "500"],  # words
    "hidden_bias": ["normal", "constant * -3", "normal * 5"],
    "activation": ["Sigmoid", "Softsign", "ELU", "Hardtanh"],
}


@dataclass(frozen=True)
class Network:
    """A network, its optimizer and its data."""

    name: str
    size: tuple[int, int, int]
    corpus: str = "names"
    activation: str = "Tanh"
    norm: str = "none"
    residual: bool = False
    hidden_weight: str = KAIMING
    hidden_bias: str = "auto"
    output_weight: str = "normal * 0.01"
    output_bias: str = "constant * 0"
    optimizer: str = "SGD"
    lr: float = 0.1
    batch_size: int = 32
    seed: int = 1
    updates: int = UPDATES
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)  # remedies

    @property
    def peers(self) -> tuple[Any, ...]:
        """The size and corpus: networks are compared if they share both."""
        return self.size, self.corpus

    def options(self, corpora: Mapping[str, Path]) -> tuple[str, ...]:
        """Returns the options for `train.py`."""
        n_layers, n_hidden, n_embd = self.size
        updates = int(float(self.changes.get("max_steps", self.updates)))
        model = {
            "n_layers": n_layers,
            "n_hidden": n_hidden,
            "n_embd": n_embd,
            "activation": self.activation,
            "residual": str(self.residual).lower(),
            "initialization.hidden_weight": self.hidden_weight,
            "initialization.hidden_bias": self.hidden_bias,
            "initialization.output_weight": self.output_weight,
            "initialization.output_bias": self.output_bias,
            "optimizer": self.optimizer,
            "optimizer.lr": f"{self.lr:.6g}",
            "lr_scheduler": "MultiStepLR",
            "lr_scheduler.milestones": f"[{updates * 3 // 4}]",
            **({"batch_norm.momentum": 0.01} if self.norm == "batch" else {"norm.kind": self.norm}),
        }
        data = {"corpus": corpora[self.corpus], "batch_size": self.batch_size}
        trainer = {"max_steps": updates, "val_check_interval": min(5000, updates)}
        for name, value in self.changes.items():
            {"batch_size": data, "max_steps": {}}.get(name, model)[name] = value
        rooms = {"model": model, "data": data, "trainer": trainer}
        words = [(f"--{room}.{name}", str(value)) for room, of_room in rooms.items() for name, value in of_room.items()]
        kind = "BatchNormMLP" if self.norm == "batch" else "MLP"
        return ("--model", kind, *(word for pair in words for word in pair), "--seed_everything", str(self.seed))


def drawn(number: int) -> Network:
    """Returns network `number`: a sound recipe, with one mistake in three of five cases, with two in one of five."""
    r = random.Random(number)
    size = r.choice(SIZES)
    recipe: dict[str, Any] = {
        "activation": r.choice(["Tanh", "Tanh", "Tanh", "ReLU", "ReLU", "GELU"]),
        "norm": r.choice(["none", "none", "none", "batch", "batch", "layer"]),
        "residual": r.random() < 0.15,
        "hidden_weight": r.choice([KAIMING, KAIMING, "normal * 0.2", "normal * 0.1"]),
        "output_weight": r.choice(["normal * 0.01", "normal * xavier", "normal / sqrt(fan_in)"]),
        "optimizer": r.choice(["SGD", "SGD", "AdamW"]),
        "batch_size": r.choice([32, 32, 32, 128]),
    }
    recipe["lr"] = r.choice([0.05, 0.1, 0.2] if recipe["optimizer"] == "SGD" else [0.001, 0.002, 0.005])
    kinds = ["hidden_weight", "output_weight", "lr", "lr", "batch_size", "corpus", "hidden_bias", "activation"]
    for kind in r.sample(kinds, r.choice([0, 1, 1, 1, 2])):
        value = r.choice(MISTAKES[kind])
        recipe[kind] = recipe["lr"] * value if kind == "lr" else value
        if kind == "output_weight":
            recipe["output_bias"] = "normal"
    return Network(f"network_{number}", size, seed=number, **recipe)


def references() -> Iterator[Network]:
    """Yields sound recipes of each size on each corpus, which show how well such a network can end."""
    for corpus in ("names", "5000", "500"):
        for size in SIZES:
            name = f"reference_{corpus}_{size[0]}x{size[1]}"
            yield Network(f"{name}_sgd", size, corpus)
            yield Network(f"{name}_adamw", size, corpus, optimizer="AdamW", lr=0.002)
            if corpus != "names":  # a full run would overfit the small ones
                yield Network(f"{name}_short", size, corpus, updates=2_000)
