"""How the loss pulls at layers and weights, and how far the weights move."""

import math
from typing import Any

from ngram_mlp.callbacks.findings import Findings
from ngram_mlp.callbacks.observer import Observer
from ngram_mlp.looks import Look, update_ratios
from ngram_mlp.models import LanguageModel
from ngram_mlp.statistics import log10_ratio, mean_and_std

__all__ = ["GradientStatistics"]


class GradientStatistics(Observer):
    """Gradients with respect to the layers' outputs and to the weights, and the ratio of update to weight.

    For each layer mean and deviation of the gradient at its output; for each weight deviation and norm of its
    gradient, log10 of std(gradient) / std(weight), and log10 of std(update) / std(weight), where the update is what
    the optimizer really did to the weight.

    Args:
        cadence: when to look.
        layers: a pattern for the names of layers and weights.
    """

    def __init__(self, cadence: str = "default", layers: str = "*") -> None:
        super().__init__(cadence, layers)
        self._ratios: dict[str, list[tuple[int, float]]] = {}

    def observe(self, look: Look, model: LanguageModel, findings: Findings) -> None:
        layers, weights = self.selected(look.layers), self.selected(look.weights)
        ratios = update_ratios(look, model.network)
        numbers = {}
        for name, weight in weights.items():
            self._ratios.setdefault(name, []).append((look.update, ratios[name]))
            if findings.due.numbers:
                numbers[f"update_to_data/{name}"] = ratios[name]
                numbers[f"gradient_to_data/{name}"] = log10_ratio(weight.gradient, weight.value)
                numbers[f"weight_gradient_std/{name}"] = mean_and_std(weight.gradient)[1]
                numbers[f"weight_gradient_norm/{name}"] = weight.gradient.norm().item()
            if findings.due.histograms:
                findings.histogram(f"weight_gradient/{name}", weight.gradient)
                findings.histogram(f"weight/{name}", weight.value)
        for name, layer in layers.items():
            if findings.due.numbers:
                numbers[f"gradient_mean/{name}"], numbers[f"gradient_std/{name}"] = mean_and_std(layer.gradient)
            if findings.due.histograms:
                findings.histogram(f"gradient/{name}", layer.gradient)
        findings.numbers(numbers)
        if findings.due.figures and weights:
            self._draw(look, findings)

    def _draw(self, look: Look, findings: Findings) -> None:
        from ngram_mlp.figures import distributions_figure, update_ratio_figure

        when = f"update {look.update:,}"
        nonlinear = {name: layer.gradient for name, layer in self.selected(look.nonlinearities).items()}
        gradients = nonlinear or {name: layer.gradient for name, layer in self.selected(look.layers).items()}
        findings.figure(
            "gradients", distributions_figure("gradient at the layers' outputs", "gradient", {when: gradients})
        )
        weights = {name: weight.gradient for name, weight in self.selected(look.weights).items()}
        findings.figure(
            "weight_gradients", distributions_figure("gradient of the weights", "gradient", {when: weights})
        )
        finite = {n: [(u, r) for u, r in points if math.isfinite(r)] for n, points in self._ratios.items()}
        findings.figure("update_to_data", update_ratio_figure(finite))

    def state_dict(self) -> dict[str, Any]:
        return {"ratios": self._ratios}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._ratios = {name: [tuple(point) for point in points] for name, points in state_dict["ratios"].items()}
