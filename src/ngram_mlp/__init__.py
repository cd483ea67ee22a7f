"""N-gram MLPs as a PyTorch Lightning research template.

`data`, `models`, `diagnostics` and `callbacks` are research code: change them. Two libraries stand beside this package:
`multistep` trains; `runlab` keeps, compares and searches runs. docs/architecture.md has the map, and the promises that
the code cites by number.

Each name is imported on first access, so that a command that does not need torch starts without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ngram_mlp.console import open_console as open_console
    from ngram_mlp.data import NGramDataModule as NGramDataModule
    from ngram_mlp.models import MLP as MLP
    from ngram_mlp.models import BatchNormMLP as BatchNormMLP
    from ngram_mlp.models import LanguageModel as LanguageModel
    from ngram_mlp.models import WaveNet as WaveNet

__version__ = "0.2.0"

_HOMES = {"NGramDataModule": "data", "open_console": "console"}
__all__ = ["MLP", "BatchNormMLP", "LanguageModel", "NGramDataModule", "WaveNet", "open_console"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ngram_mlp.{_HOMES.get(name, 'models')}"), name)
