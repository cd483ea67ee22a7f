"""Character-level n-gram MLPs as a PyTorch Lightning research template.

`data`, `models`, `diagnostics` and `callbacks` are for research: change them. `training`, `runs`, `studies` and `cli`
are the machinery behind. docs/architecture.md has the map, and the promises that the code refers to by number.
"""

__version__ = "0.2.0"

from ngram_mlp.imports import postpone_dynamo, without_collections

with without_collections():
    postpone_dynamo()
    from ngram_mlp.data import NGramDataModule
    from ngram_mlp.models import MLP, BatchNormMLP, LanguageModel, WaveNet

__all__ = ["MLP", "BatchNormMLP", "LanguageModel", "NGramDataModule", "WaveNet"]
