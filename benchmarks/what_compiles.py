"""Trains every odd module and setting of tests/multistep, and prints as Markdown which engine trained it, and why.

python -m benchmarks.what_compiles > table.md
"""

import contextlib
import logging
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator

from multistep import _choice
from multistep._fused import FusedEngine
from tests.multistep.cases import ODD, SETTINGS
from tests.multistep.foreign import FOREIGN
from tests.multistep.odd import reset
from tests.multistep.settings import Rows
from tests.multistep.training import train


def tried() -> Iterator[tuple[str, str, str]]:
    """Yields what was trained, the engine used, and the reason if that is not `fused`."""
    for name, foreign in FOREIGN.items():
        found = train(foreign.make, "auto", foreign.loader, max_epochs=2).multistep
        yield f"foreign: {name}", found.engine_used, found.reason or ""
    for name, (make, _) in ODD.items():
        reset()
        found = train(make, "auto").multistep
        yield words_of(name), found.engine_used, found.reason or ""
    for name, setting in SETTINGS.items():
        options = {"logger": Rows(), **setting.options}
        found = train(setting.make, "auto", setting.data, setting.callbacks(), **options).multistep
        yield name, found.engine_used, found.reason or ""


def words_of(name: str) -> str:
    """Returns the name of a class in words.

    >>> words_of("BufferInPlace")
    'buffer in place'
    """
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()


def row(what: str, engine: str, reason: str) -> str:
    """Returns a row of the table."""
    return f"| {what} | {engine} | {reason.replace('|', '/')} |"


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    _choice.FEW = 0
    FusedEngine.pays_from = lambda engine: 0  # compile however short the training is
    with contextlib.redirect_stdout(sys.stderr):  # some modules print
        found = [*tried()]
    fused = "; ".join(what for what, engine, _ in found if engine == "fused")
    print("\n".join(textwrap.wrap(f"`fused` trains: {fused}.", 132)))
    print("\nNot `fused`:\n\n| what | engine | reason |\n| --- | --- | --- |")
    for what, engine, reason in found:
        if engine != "fused":
            print(row(what, engine, reason))
