"""The network judged before its first update."""

import json
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console

from ngram_mlp.callbacks.findings import Findings
from ngram_mlp.callbacks.observer import current_look
from ngram_mlp.judging import judge_initialization
from ngram_mlp.statistics import SATURATION
from ngram_mlp.verdicts import as_json, as_markdown, as_table

__all__ = ["InitializationCheck"]


class InitializationCheck(Callback):
    """Judges the initial network by the minibatch of update 0: on the console, in TensorBoard, in `preflight.json`.

    A run that goes on from a checkpoint has been judged before.

    Args:
        console: where the table is printed; by default standard output.
        saturation: the abs(tanh) above which a unit is saturated.
    """

    def __init__(self, console: Console | None = None, saturation: float = SATURATION) -> None:
        self._console = console or Console()
        self._saturation = saturation

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step > 0:
            return
        verdicts = judge_initialization(current_look(trainer, pl_module, batch), self._saturation)
        if trainer.is_global_zero:
            self._console.print(as_table("before the first update", verdicts))
        findings = Findings(trainer, 0)
        findings.text("verdicts/before the first update", as_markdown(verdicts))
        findings.file("preflight.json", json.dumps(as_json(verdicts), indent=2))
