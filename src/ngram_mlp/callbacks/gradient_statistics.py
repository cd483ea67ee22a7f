"""How the loss pulls at layers and weights, and how far the weights move."""

import math
from typing import Any

from ngram_mlp.callbacks.observer import Observer
from ngram_mlp.callbacks.recorder import Recorder
from ngram_mlp.diagnostics.snapshot import Snapshot, update_ratios
from ngram_mlp.diagnostics.statistics import log10_ratio, mean_and_std
from ngram_mlp.models import LanguageModel


class GradientStatistics(Observer):
    """Gradients with respect to the layers' outputs and to the weights, and the ratio of update to weight.

    For each layer mean and standard deviation of the gradient at its output; for each weight standard deviation and norm of its
    gradient, log10 of std(gradient) / std(weight), and log10 of std(update) / std(weight), where the update is what
    the optimizer really did to the weight.

    Args:
        every_n_updates: as `Intervals.parse` reads it.
        layers: a pattern for the names of layers and weights.
    """

    def __init__(self, every_n_updates: str = "default", layers: str = "*") -> None:
        super().__init__(every_n_updates, layers)
        self._ratios: dict[str, list[tuple[int, float]]] = {}

    def observe(self, snapshot: Snapshot, model: LanguageModel, recorder: Recorder) -> None:
        layers, weights = self.selected(snapshot.layers), self.selected(snapshot.weights)
        ratios = update_ratios(snapshot, model.network)
        numbers = {}
        for name, weight in weights.items():
            self._ratios.setdefault(name, []).append((snapshot.update, ratios[name]))
            if recorder.due.numbers:
                numbers[f"update_to_data/{name}"] = ratios[name]
                numbers[f"gradient_to_data/{name}"] = log10_ratio(weight.gradient, weight.value)
                numbers[f"weight_gradient_std/{name}"] = mean_and_std(weight.gradient)[1]
                numbers[f"weight_gradient_norm/{name}"] = weight.gradient.norm().item()
            if recorder.due.histograms:
                recorder.histogram(f"weight_gradient/{name}", weight.gradient)
                recorder.histogram(f"weight/{name}", weight.value)
        for name, layer in layers.items():
            if recorder.due.numbers:
                numbers[f"gradient_mean/{name}"], numbers[f"gradient_std/{name}"] = mean_and_std(layer.gradient)
            if recorder.due.histograms:
                recorder.histogram(f"gradient/{name}", layer.gradient)
        recorder.numbers(numbers)
        if recorder.due.figures and weights:
            self._draw(snapshot, recorder)

    def _draw(self, snapshot: Snapshot, recorder: Recorder) -> None:
        from ngram_mlp.diagnostics.figures import distributions_figure, update_ratio_figure

        when = f"update {snapshot.update:,}"
        nonlinear = {name: layer.gradient for name, layer in self.selected(snapshot.nonlinearities).items()}
        gradients = nonlinear or {name: layer.gradient for name, layer in self.selected(snapshot.layers).items()}
        recorder.figure(
            "gradients", distributions_figure("gradient at the layers' outputs", "gradient", {when: gradients})
        )
        weights = {name: weight.gradient for name, weight in self.selected(snapshot.weights).items()}
        recorder.figure(
            "weight_gradients", distributions_figure("gradient of the weights", "gradient", {when: weights})
        )
        finite = {n: [(u, r) for u, r in points if math.isfinite(r)] for n, points in self._ratios.items()}
        recorder.figure("update_to_data", update_ratio_figure(finite))

    def state_dict(self) -> dict[str, Any]:
        return {"ratios": self._ratios}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._ratios = {name: [tuple(point) for point in points] for name, points in state_dict["ratios"].items()}
