"""Character-level n-gram MLPs as a PyTorch Lightning research template.

`data`, `models`, `diagnostics` and `callbacks` are for research: change them. Two libraries stand beside this package:
`multistep` trains, and `runlab` keeps, compares and searches runs. docs/architecture.md has the map, and the promises
that the code refers to by number.
"""

from ngram_mlp.console import open_console
from ngram_mlp.data import NGramDataModule
from ngram_mlp.models import MLP, BatchNormMLP, LanguageModel, WaveNet

__version__ = "0.2.0"

__all__ = ["MLP", "BatchNormMLP", "LanguageModel", "NGramDataModule", "WaveNet", "open_console"]
