"""The training judged at its end."""

import json
import math
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from ngram_mlp.callbacks.findings import Findings
from ngram_mlp.callbacks.observer import Observer
from ngram_mlp.judging import judge_training
from ngram_mlp.looks import Look, update_ratios
from ngram_mlp.models import LanguageModel
from ngram_mlp.statistics import SATURATION, dead, mean_and_std, saturated
from ngram_mlp.verdicts import as_json, as_markdown, as_table

__all__ = ["TrainingVerdicts"]

LAST_UPDATES = 10_000


class TrainingVerdicts(Observer):
    """Judges update:data ratios, gradients over depth, dead units and overfitting from all looks of the training.

    It speaks at the end: on the console, in TensorBoard, in `verdicts.json`.

    Args:
        cadence: when to look.
        layers: a pattern for the names of layers and weights.
        saturation: the abs(tanh) above which a unit is saturated.
        console: where the table is printed; by default standard output.
    """

    def __init__(
        self,
        cadence: str = "default",
        layers: str = "*",
        saturation: float = SATURATION,
        console: Console | None = None,
    ) -> None:
        super().__init__(cadence, layers)
        self.saturation = saturation
        self._console = console or Console()
        self._ratios: dict[str, list[float]] = {}
        self._always_dead: dict[str, Tensor] = {}
        self._gradients: list[float] = []
        self._losses = torch.empty(0)

    def observe(self, look: Look, model: LanguageModel, findings: Findings) -> None:
        for name, ratio in self.selected(update_ratios(look, model.network)).items():
            if math.isfinite(ratio):
                self._ratios.setdefault(name, []).append(ratio)
        layers = self.selected(look.nonlinearities)
        self._gradients = [mean_and_std(layer.gradient)[1] for layer in layers.values()]
        for name, layer in layers.items():
            now = dead(saturated(layer.module, layer.input, self.saturation)).cpu()
            self._always_dead[name] = self._always_dead.get(name, now) & now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._losses = torch.cat([self._losses, outputs["losses"].float().cpu()])[-LAST_UPDATES:]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        val = trainer.callback_metrics.get("val/loss")
        losses = (self._losses.mean().item(), float(val)) if val is not None and len(self._losses) else None
        dead_fractions = {name: mask.float().mean().item() for name, mask in self._always_dead.items()}
        verdicts = judge_training(self._ratios, self._gradients, dead_fractions, losses)
        if verdicts and trainer.is_global_zero:
            self._console.print(as_table("after the training", verdicts))
        findings = Findings(trainer, trainer.global_step)
        findings.text("verdicts/after the training", as_markdown(verdicts))
        findings.file("verdicts.json", json.dumps(as_json(verdicts), indent=2))

    def state_dict(self) -> dict[str, Any]:
        return {
            "ratios": self._ratios,
            "always_dead": self._always_dead,
            "gradients": self._gradients,
            "losses": self._losses,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._ratios = state_dict["ratios"]
        self._always_dead = state_dict["always_dead"]
        self._gradients = state_dict["gradients"]
        self._losses = state_dict["losses"]
