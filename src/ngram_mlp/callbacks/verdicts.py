"""Judges the network before its first update, and the training at its end."""

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from pytorch_lightning import Callback, LightningModule
from rich.console import Console

from multistep import Calls
from ngram_mlp.callbacks.harmless import harmless
from ngram_mlp.callbacks.losses import Losses
from ngram_mlp.callbacks.outcome import Outcome
from ngram_mlp.callbacks.quantity import Quantity
from ngram_mlp.callbacks.recorder import Recorder, among
from ngram_mlp.data import NGramDataModule
from ngram_mlp.diagnostics.counting import counted_losses
from ngram_mlp.diagnostics.final_verdicts import judge_training
from ngram_mlp.diagnostics.initial_verdicts import (
    arguments_of,
    enough_of,
    evenly_spaced,
    judge_initialization,
    judge_model,
)
from ngram_mlp.diagnostics.snapshot import Snapshot, take_snapshot, update_ratio
from ngram_mlp.diagnostics.statistics import SATURATION
from ngram_mlp.diagnostics.trial import clipping
from ngram_mlp.diagnostics.verdicts import Verdict, as_json, as_markdown, as_table
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.metrics import VAL_LOSS, evaluation_mode

# A learning rate below this fraction of its maximum is near the end of its schedule: small updates are then expected.
LOWERED = 0.099


class InitializationCheck(Callback):
    """Judges the initial network, its learning rate and its data: on the console, in the loggers, in `preflight.json`.

    If the data do not come from an `NGramDataModule`, it judges from the minibatch of update 0 alone.

    Args:
        console: where to print the table; by default standard output.
        saturation: the abs(tanh) above which a unit is saturated.
    """

    update_calls = Calls(around=(sys.maxsize,))  # 0 is a multiple of it

    def __init__(self, console: Console | None = None, saturation: float = SATURATION) -> None:
        self._console = console or Console()
        self._saturation = saturation

    # Not in a training hook: the trial reads gradients, and engines keep gradients for training hooks that read them.
    def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
        if trainer.global_step or not isinstance(trainer.datamodule, NGramDataModule):
            return
        assert isinstance(pl_module, LanguageModel)
        recorder = Recorder(trainer, 0)
        with harmless(type(self).__name__, trainer), trainer.precision_plugin.train_step_context():
            verdicts = judge_model(
                pl_module,
                trainer.datamodule,
                sys.maxsize if trainer.overfit_batches else recorder.updates,  # which take from a part of the split
                accumulated=trainer.accumulate_grad_batches,
                validates=trainer.limit_val_batches > 0,
                clip=clipping(trainer.gradient_clip_val, trainer.gradient_clip_algorithm),
                saturation=self._saturation,
            )
            _show("before the first update", verdicts, self._console, recorder, "preflight.json")

    def on_train_batch_start(self, trainer: Any, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step or batch_idx or isinstance(trainer.datamodule, NGramDataModule):
            return
        assert isinstance(pl_module, LanguageModel)
        with harmless(type(self).__name__, trainer), trainer.precision_plugin.train_step_context():
            verdicts = judge_initialization(take_snapshot(pl_module.network, *batch), saturation=self._saturation)
            _show("before the first update", verdicts, self._console, Recorder(trainer, 0), "preflight.json")


class TrainingVerdicts(Quantity):
    """Judges the training at its end: on the console, in the loggers, in `verdicts.json`.

    Needs the callbacks `Losses` and `Outcome`, which must come before `Inspect` in the trainer's list.

    Args:
        every_n_updates: as `Intervals.parse` reads it.
        saturation: the abs(tanh) above which a unit is saturated.
        console: where to print the table; by default standard output.
    """

    def __init__(
        self, every_n_updates: str = "default", saturation: float = SATURATION, console: Console | None = None
    ) -> None:
        super().__init__(every_n_updates)
        self.saturation = saturation
        self._console = console or Console()

    def reset(self) -> None:
        self._ratios: list[tuple[int, float]] = []
        self._highest_rate = 0.0
        self._counted: dict[str, dict[str, float]] = {}  # by split

    def draw(self, model: LanguageModel, recorder: Recorder) -> None:
        """Draws nothing, but counts n-grams for the verdicts at the last update, while figures are drawn elsewhere."""
        trainer, ends = recorder.trainer, recorder.update == recorder.updates - 1
        if ends and recorder.is_first_process and isinstance(trainer.datamodule, NGramDataModule):
            self._count(trainer.datamodule, "val" if trainer.limit_val_batches else "train")

    def _count(self, data: NGramDataModule, split: str) -> dict[str, float]:
        if split not in self._counted:
            vocab_size = len(data.vocabulary)
            losses = counted_losses(data.splits["train"], data.splits[split], vocab_size)
            self._counted[split] = {"guessing": math.log(vocab_size)} | losses
        return self._counted[split]

    def observe(self, snapshot: Snapshot, model: LanguageModel, recorder: Recorder) -> None:
        rate = float(recorder.trainer.optimizers[0].param_groups[0]["lr"])
        self._highest_rate = max(rate, self._highest_rate)
        if rate >= LOWERED * self._highest_rate:
            self._ratios.append((snapshot.update, update_ratio(snapshot, model.network)))

    def conclude(self, model: LanguageModel, recorder: Recorder) -> None:
        trainer = recorder.trainer
        losses, outcome = among(trainer, Losses), among(trainer, Outcome)
        if not outcome.metrics or not len(losses):
            return
        data: NGramDataModule = trainer.datamodule
        validates = VAL_LOSS in trainer.callback_metrics
        metrics = {split: values["loss"] for split, values in outcome.metrics.items() if split != "val" or validates}
        counted = self._count(data, "val" if validates else "train")
        some = enough_of(len(data.vocabulary))
        with evaluation_mode(model.network):
            contexts, targets = (x.to(model.device) for x in evenly_spaced(data.splits["train"], some))
            snapshot = take_snapshot(model.network, contexts, targets, trainer.global_step)
        evidence = (losses.all, metrics, counted, self._ratios, snapshot)
        verdicts = judge_training(*evidence, arguments_of(model), self.saturation)
        _show("after the training", verdicts, self._console, recorder, "verdicts.json")

    def state_dict(self) -> dict[str, Any]:
        return {"ratios": self._ratios, "highest_rate": self._highest_rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._ratios = [tuple(point) for point in state_dict["ratios"]]
        self._highest_rate = state_dict["highest_rate"]


def _show(title: str, verdicts: Sequence[Verdict], console: Console, recorder: Recorder, file: str) -> None:
    if verdicts and recorder.is_first_process:
        console.print(as_table(title, verdicts))
    recorder.text(f"verdicts/{title}", as_markdown(verdicts))
    recorder.file(file, json.dumps(as_json(verdicts), indent=2))
