"""Lists the sizes of network for which the cost of an update is measured, in order."""

DEFAULT = {"n_hidden": 200, "batch_size": 32, "n_layers": 1, "vocab_size": 27}
SIZES = [DEFAULT | {"n_hidden": n} for n in (50, 200, 500, 1000, 2000)]
SIZES += [DEFAULT | {"batch_size": n} for n in (8, 128, 1024)]
SIZES += [DEFAULT | {"n_layers": n} for n in (2, 5, 10)]
SIZES += [
    DEFAULT | {"n_hidden": 512, "batch_size": 256, "n_layers": 3},
    DEFAULT | {"n_hidden": 2000, "batch_size": 1024},
]
SIZES += [DEFAULT | {"vocab_size": n} for n in (1_000, 10_000)] + [DEFAULT | {"batch_size": 128, "vocab_size": 10_000}]


def named(text: str) -> dict[str, int]:
    """Returns the size of a network from its words on a command line: hidden units, minibatch, layers, vocabulary."""
    return dict(zip(DEFAULT, map(int, text.split(",")), strict=True))


def written(size: dict[str, int]) -> str:
    return ",".join(str(size[name]) for name in DEFAULT)


def block_of(batch_size: int) -> int:
    """Returns the number of minibatches between two readings of the clock, fewer if they are large."""
    return max(10, min(500, 2**15 // batch_size))
