"""From which size of network on a GPU pays: `python benchmarks/accelerators.py`, on a machine that has one.

Prints the microseconds of an update by the eager engine on the CPU and on the GPU, and by the fused engine, for
networks and minibatches of growing size, with the number that `training.accelerators` decides by.
"""

import statistics
import time

import torch
from ngram_mlp.training import Calls, CannotFuseError, EagerEngine
from ngram_mlp.training.fused import FusedEngine
from ngram_mlp.training.threads import multiplications_in
from ngram_mlp.training.trainer import Chunking

from ngram_mlp import MLP, NGramDataModule
from ngram_mlp.data import MinibatchStream

# Units in each of the hidden layers, how many layers, and the examples in a minibatch.
SIZES = ((200, 1, 32), (200, 3, 256), (300, 3, 256), (500, 3, 256), (1000, 3, 256), (1000, 3, 1024), (2000, 3, 1024))
ROUNDS = 5


def microseconds(engine_class: type, device: str, size: tuple[int, int, int], data: NGramDataModule) -> float:
    """The median time of an update over several chunks."""
    n_hidden, n_layers, batch_size = size
    torch.manual_seed(1)
    model = MLP(data.characters, 3, n_hidden=n_hidden, n_layers=n_layers)
    network = model.network.to(device)
    configured = model.configure_optimizers()
    engine = engine_class(network, configured["optimizer"], configured["lr_scheduler"]["scheduler"])
    updates = max(3, min(500, 2**31 // multiplications_in(network, batch_size)))
    chunking = Chunking(Calls(), updates, updates)
    (chunk,) = MinibatchStream(data.splits["train"], batch_size, torch.Generator(), chunking)
    contexts, targets = (tensor.to(device) for tensor in chunk)
    if engine_class is FusedEngine:
        engine.compile(contexts, targets)
    times = []
    for done in range(ROUNDS + 1):
        started = time.perf_counter()
        engine.run(contexts, targets, done * updates)
        if device != "cpu":
            torch.accelerator.synchronize()
        times.append((time.perf_counter() - started) / updates * 1e6)
    return statistics.median(times[1:])


def main() -> None:
    gpu = torch.accelerator.current_accelerator()
    if gpu is None:
        raise SystemExit("error: there is no GPU")
    name = torch.cuda.get_device_name() if gpu.type == "cuda" else gpu.type
    data = NGramDataModule("sample")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {name}; microseconds an update\n")
    print(f"{'units x layers, minibatch':28}{'multiplications':>18}{'cpu':>10}{'gpu':>10}{'fused':>10}")
    for size in SIZES:
        multiplications = multiplications_in(MLP(data.characters, 3, n_hidden=size[0], n_layers=size[1]), size[2])
        cpu, on_gpu = (microseconds(EagerEngine, device, size, data) for device in ("cpu", gpu.type))
        try:
            fused = f"{microseconds(FusedEngine, 'cpu', size, data):10,.0f}"
        except (CannotFuseError, ImportError):
            fused = f"{'-':>10}"
        what = f"{size[0]} x {size[1]}, {size[2]}"
        print(f"{what:28}{multiplications / 1e6:15,.1f} M  {cpu:10,.0f}{on_gpu:10,.0f}{fused}", flush=True)


if __name__ == "__main__":
    main()
