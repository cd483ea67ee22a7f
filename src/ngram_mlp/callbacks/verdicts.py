"""The network judged before its first update, and its training judged at the end."""

import json
import math
from collections.abc import Sequence
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from ngram_mlp.callbacks.observer import Observer
from ngram_mlp.callbacks.recorder import EVERYTHING, NOTHING, Due, Recorder
from ngram_mlp.diagnostics.judging import judge_initialization, judge_training
from ngram_mlp.diagnostics.snapshot import Snapshot, update_ratios
from ngram_mlp.diagnostics.statistics import SATURATION, dead, mean_and_std, saturated
from ngram_mlp.diagnostics.verdicts import Verdict, as_json, as_markdown, as_table
from ngram_mlp.models import LanguageModel

LAST_UPDATES = 10_000


class InitializationCheck(Observer):
    """Judges the initial network by the minibatch of update 0: on the console, in the loggers, in `preflight.json`.

    Args:
        console: where the table is printed; by default standard output.
        saturation: the abs(tanh) above which a unit is saturated.
    """

    def __init__(self, console: Console | None = None, saturation: float = SATURATION) -> None:
        super().__init__("off")
        self._console = console or Console()
        self._saturation = saturation

    def due(self, update: int, last: int) -> Due:
        return EVERYTHING if update == 0 else NOTHING

    def before_update(self, snapshot: Snapshot, model: LanguageModel, recorder: Recorder) -> None:
        verdicts = judge_initialization(snapshot, self._saturation)
        _show("before the first update", verdicts, self._console, recorder, "preflight.json")


class TrainingVerdicts(Observer):
    """Judges update:data ratios, gradients over depth, dead units and overfitting, from all snapshots of the training.

    The verdicts come at the end: on the console, in the loggers, in `verdicts.json`.

    Args:
        every_n_updates: as `Intervals.parse` reads it.
        layers: a pattern for the names of layers and weights.
        saturation: the abs(tanh) above which a unit is saturated.
        console: where the table is printed; by default standard output.
    """

    def __init__(
        self,
        every_n_updates: str = "default",
        layers: str = "*",
        saturation: float = SATURATION,
        console: Console | None = None,
    ) -> None:
        super().__init__(every_n_updates, layers)
        self.saturation = saturation
        self._console = console or Console()
        self._ratios: dict[str, list[float]] = {}
        self._always_dead: dict[str, Tensor] = {}
        self._gradients: list[float] = []

    def observe(self, snapshot: Snapshot, model: LanguageModel, recorder: Recorder) -> None:
        for name, ratio in self.selected(update_ratios(snapshot, model.network)).items():
            if math.isfinite(ratio):
                self._ratios.setdefault(name, []).append(ratio)
        layers = self.selected(snapshot.nonlinearities)
        self._gradients = [mean_and_std(layer.gradient)[1] for layer in layers.values()]
        for name, layer in layers.items():
            now = dead(saturated(layer.module, layer.input, self.saturation)).cpu()
            self._always_dead[name] = self._always_dead.get(name, now) & now

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        val, last = trainer.callback_metrics.get("val/loss"), pl_module.losses.all[-LAST_UPDATES:]
        losses = (last.mean().item(), float(val)) if val is not None and len(last) else None
        dead_fractions = {name: mask.float().mean().item() for name, mask in self._always_dead.items()}
        verdicts = judge_training(self._ratios, self._gradients, dead_fractions, losses)
        recorder = Recorder(trainer, trainer.global_step)
        _show("after the training", verdicts, self._console, recorder, "verdicts.json")

    def state_dict(self) -> dict[str, Any]:
        return {"ratios": self._ratios, "always_dead": self._always_dead, "gradients": self._gradients}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._ratios, self._always_dead = state_dict["ratios"], state_dict["always_dead"]
        self._gradients = state_dict["gradients"]


def _show(title: str, verdicts: Sequence[Verdict], console: Console, recorder: Recorder, file: str) -> None:
    if verdicts and recorder.is_first_process:
        console.print(as_table(title, verdicts))
    recorder.text(f"verdicts/{title}", as_markdown(verdicts))
    recorder.file(file, json.dumps(as_json(verdicts), indent=2))
