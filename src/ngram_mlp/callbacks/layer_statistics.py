"""Activations and gradients of each layer, and how far its weights move."""

import math
from typing import Any

from ngram_mlp.callbacks.observer import Observer
from ngram_mlp.callbacks.recorder import Recorder
from ngram_mlp.diagnostics.snapshot import Snapshot, update_ratios
from ngram_mlp.diagnostics.statistics import SATURATION, dead, log10_ratio, mean_and_std, saturated
from ngram_mlp.models import LanguageModel


class ActivationStatistics(Observer):
    """Mean, std and histogram of each hidden layer before and after its non-linearity; saturated and dead fractions.

    Figures of the distributions and, as in notebook 004, of the saturated cells, at the first snapshot and now.

    Args:
        every_n_updates: as `Intervals.parse` reads it.
        layers: a pattern for the names of the hidden layers.
        saturation: the abs(tanh) above which a unit is saturated; for other non-linearities the same slope counts.
    """

    def __init__(self, every_n_updates: str = "default", layers: str = "*", saturation: float = SATURATION) -> None:
        super().__init__(every_n_updates, layers)
        self.saturation = saturation
        self._first: Snapshot | None = None

    def observe(self, snapshot: Snapshot, model: LanguageModel, recorder: Recorder) -> None:
        layers = self.selected(snapshot.nonlinearities)
        first = self._first = self._first or snapshot
        numbers = {}
        for name, layer in layers.items():
            if recorder.due.numbers:
                flat = saturated(layer.module, layer.input, self.saturation)
                numbers[f"saturated/{name}"] = flat.float().mean().item()
                numbers[f"dead_units/{name}"] = dead(flat).float().mean().item()
            for kind, x in (("preactivation", layer.input), ("activation", layer.output)):
                if recorder.due.numbers:
                    numbers[f"{kind}_mean/{name}"], numbers[f"{kind}_std/{name}"] = mean_and_std(x)
                if recorder.due.histograms:
                    recorder.histogram(f"{kind}/{name}", x)
        recorder.numbers(numbers)
        if recorder.due.figures and layers:
            self._draw((first, snapshot), recorder)

    def _draw(self, snapshots: tuple[Snapshot, Snapshot], recorder: Recorder) -> None:
        from ngram_mlp.diagnostics.figures import distributions_figure, saturation_figure

        activations, masks = {}, {}
        for snapshot in snapshots:
            when, layers = f"update {snapshot.update:,}", self.selected(snapshot.nonlinearities)
            activations[when] = {name: layer.output for name, layer in layers.items()}
            for name, layer in layers.items():
                masks[f"{name}, {when}"] = saturated(layer.module, layer.input, self.saturation)
        recorder.figure("activations", distributions_figure("output of the non-linearities", "activation", activations))
        recorder.figure("saturation", saturation_figure(masks))


class GradientStatistics(Observer):
    """For each layer, mean and std of the gradient at its output; for each weight, std and norm of its gradient.

    Also log10 of std(gradient) / std(weight) and of std(update) / std(weight), where the update is what the optimizer
    really did to the weight.

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

        layers = self.selected(snapshot.nonlinearities) or self.selected(snapshot.layers)
        for name, title, items in (
            ("gradients", "gradient at the layers' outputs", layers),
            ("weight_gradients", "gradient of the weights", self.selected(snapshot.weights)),
        ):
            panel = {key: item.gradient for key, item in items.items()}
            recorder.figure(name, distributions_figure(title, "gradient", {f"update {snapshot.update:,}": panel}))
        finite = {n: [(u, r) for u, r in points if math.isfinite(r)] for n, points in self._ratios.items()}
        recorder.figure("update_to_data", update_ratio_figure(finite))

    def state_dict(self) -> dict[str, Any]:
        return {"ratios": self._ratios}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._ratios = {name: [tuple(point) for point in points] for name, points in state_dict["ratios"].items()}
