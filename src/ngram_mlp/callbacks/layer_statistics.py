"""Records each layer's activations and gradients, and how far its weights move."""

import math
from typing import Any

from ngram_mlp.callbacks.quantity import Quantity, tag
from ngram_mlp.callbacks.recorder import Recorder
from ngram_mlp.callbacks.snapshot_history import SnapshotHistory
from ngram_mlp.diagnostics.figures import distributions_figure, saturation_figure, update_ratio_figure
from ngram_mlp.diagnostics.snapshot import Snapshot, update_ratios
from ngram_mlp.diagnostics.statistics import SATURATION, cells, dead, density, log10_ratio, mean_and_std, saturated
from ngram_mlp.models import LanguageModel

FEW_BINS = 25  # for a minibatch's activations; more would show noise


class ActivationStatistics(Quantity):
    """Records mean, std and histogram before and after each non-linearity, and saturated and dead fractions.

    Draws the distributions in the first, a middle and the last snapshot, and the saturated cells in the first and the
    last, as in notebook 004.

    Args:
        every_n_updates: as `Intervals.parse` reads it.
        layers: a pattern for the names of the hidden layers.
        saturation: the abs(tanh) above which a unit is saturated; other non-linearities use the same slope.
    """

    def __init__(self, every_n_updates: str = "default", layers: str = "*", saturation: float = SATURATION) -> None:
        super().__init__(every_n_updates, layers)
        self.saturation = saturation

    def reset(self) -> None:
        self._history = SnapshotHistory(self._summary)

    def observe(self, snapshot: Snapshot, model: LanguageModel, recorder: Recorder) -> None:
        self._history.add(snapshot, recorder.updates)
        numbers = {}
        for name, layer in self.selected(snapshot.nonlinearities).items():
            if recorder.due.numbers:
                flat = saturated(layer.module, layer.input, self.saturation)
                numbers[tag(name, "saturated")] = flat.float().mean().item()
                numbers[tag(name, "dead_units")] = dead(flat).float().mean().item()
            for kind, x in (("preactivation", layer.input), ("activation", layer.output)):
                if recorder.due.numbers:
                    numbers[tag(name, f"{kind}_mean")], numbers[tag(name, f"{kind}_std")] = mean_and_std(x)
                if recorder.due.histograms:
                    recorder.histogram(tag(name, kind), x)
        recorder.numbers(numbers)

    def draw(self, model: LanguageModel, recorder: Recorder) -> None:
        summaries = self._history.summaries()
        densities = {when: summary["densities"] for when, summary in summaries.items()}
        masks = {when: summary["cells"] for when, summary in summaries.items()}
        if any(densities.values()):
            title = "output of the non-linearities"
            recorder.figure("activations", distributions_figure, title, "activation", densities)
            first_and_last = {when: masks[when] for when in [*masks][:: max(1, len(masks) - 1)]}
            recorder.figure("saturation", saturation_figure, first_and_last)

    def _summary(self, snapshot: Snapshot) -> dict[str, Any]:
        layers = self.selected(snapshot.nonlinearities)
        return {
            "densities": {name: density(layer.output, FEW_BINS) for name, layer in layers.items()},
            "cells": {n: cells(saturated(layer.module, layer.input, self.saturation)) for n, layer in layers.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        return {"history": self._history.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._history.kept = [tuple(kept) for kept in state_dict["history"]]


class GradientStatistics(Quantity):
    """Records mean and std of the gradient at each layer's output, and std and norm of each weight's gradient.

    Also records log10 of std(gradient) / std(weight) and of std(update) / std(weight), where the update is the
    optimizer's actual change to the weight. Draws the latter ratio, and the gradients in the first, a middle and the
    last snapshot.

    Args:
        every_n_updates: as `Intervals.parse` reads it.
        layers: a pattern for the names of layers and weights.
    """

    def __init__(self, every_n_updates: str = "default", layers: str = "*") -> None:
        super().__init__(every_n_updates, layers)

    def reset(self) -> None:
        self._history = SnapshotHistory(self._summary)
        self._ratios: dict[str, list[tuple[int, float]]] = {}

    def observe(self, snapshot: Snapshot, model: LanguageModel, recorder: Recorder) -> None:
        self._history.add(snapshot, recorder.updates)
        ratios = update_ratios(snapshot, model.network)
        numbers = {}
        for name, weight in self.selected(snapshot.weights).items():
            self._ratios.setdefault(name, []).append((snapshot.update, ratios[name]))
            if recorder.due.numbers:
                numbers[tag(name, "update_to_data")] = ratios[name]
                numbers[tag(name, "gradient_to_data")] = log10_ratio(weight.gradient, weight.value)
                numbers[tag(name, "gradient_std")] = mean_and_std(weight.gradient)[1]
                numbers[tag(name, "gradient_norm")] = weight.gradient.norm().item()
            if recorder.due.histograms:
                recorder.histogram(tag(name, "gradient"), weight.gradient)
                recorder.histogram(tag(name, "value"), weight.value)
        for name, layer in self.selected(snapshot.layers).items():
            if recorder.due.numbers:
                numbers[tag(name, "gradient_mean")], numbers[tag(name, "gradient_std")] = mean_and_std(layer.gradient)
            if recorder.due.histograms:
                recorder.histogram(tag(name, "gradient"), layer.gradient)
        recorder.numbers(numbers)

    def draw(self, model: LanguageModel, recorder: Recorder) -> None:
        summaries = self._history.summaries()
        for name, title in (
            ("gradients", "gradient at the layers' outputs"),
            ("weight_gradients", "gradient of the weights"),
        ):
            densities = {when: summary[name] for when, summary in summaries.items()}
            if any(densities.values()):
                recorder.figure(name, distributions_figure, title, "gradient", densities)
        finite = {n: [(u, r) for u, r in points if math.isfinite(r)] for n, points in self._ratios.items()}
        if finite:
            recorder.figure("update_to_data", update_ratio_figure, finite)

    def _summary(self, snapshot: Snapshot) -> dict[str, Any]:
        layers = self.selected(snapshot.nonlinearities) or self.selected(snapshot.layers)
        weights = self.selected(snapshot.weights)
        return {
            "gradients": {name: density(layer.gradient) for name, layer in layers.items()},
            "weight_gradients": {n.removesuffix(".weight"): density(weight.gradient) for n, weight in weights.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        return {"ratios": self._ratios, "history": self._history.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._ratios = {name: [tuple(point) for point in points] for name, points in state_dict["ratios"].items()}
        self._history.kept = [tuple(kept) for kept in state_dict["history"]]
