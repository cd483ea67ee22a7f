"""Measures the network size from which a GPU pays: `python benchmarks/accelerators.py`, on a machine with a GPU.

Prints the microseconds per update of the eager engine on the CPU and on the GPU, and of the fused engine, for networks
and minibatches of growing size, and their multiplications, by which the template chooses an accelerator.
"""

import torch
from engines import microseconds

from multistep import EngineUnavailableError
from ngram_mlp import MLP, NGramDataModule

# Units in each hidden layer, hidden layers, examples in a minibatch.
SIZES = ((200, 1, 32), (200, 3, 256), (300, 3, 256), (500, 3, 256), (1000, 3, 256), (1000, 3, 1024), (2000, 3, 1024))
SECONDS = 3.0


def main() -> None:
    gpu = torch.accelerator.current_accelerator()
    if gpu is None:
        raise SystemExit("error: there is no GPU")
    name = torch.cuda.get_device_name() if gpu.type == "cuda" else gpu.type
    data = NGramDataModule("sample")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {name}; microseconds per update\n")
    print(f"{'units x layers, minibatch':28}{'multiplications':>18}{'cpu':>10}{'gpu':>10}{'fused':>10}")
    for n_hidden, n_layers, batch_size in SIZES:

        def measured(
            engine: str, accelerator: str, n_hidden: int = n_hidden, n_layers: int = n_layers, size: int = batch_size
        ) -> float:
            torch.manual_seed(1)
            network = MLP(data.vocabulary, 3, n_hidden=n_hidden, n_layers=n_layers).network
            return microseconds(network, data.splits["train"], size, engine, SECONDS, accelerator)

        network = MLP(data.vocabulary, 3, n_hidden=n_hidden, n_layers=n_layers).network
        multiplications = batch_size * sum(parameter.numel() for parameter in network.parameters())
        cpu, on_gpu = measured("eager", "cpu"), measured("eager", "gpu")
        try:
            fused = f"{measured('fused', 'cpu'):10,.0f}"
        except EngineUnavailableError:
            fused = f"{'-':>10}"
        what = f"{n_hidden} x {n_layers}, {batch_size}"
        print(f"{what:28}{multiplications / 1e6:15,.1f} M  {cpu:10,.0f}{on_gpu:10,.0f}{fused}", flush=True)


if __name__ == "__main__":
    main()
