"""What the non-linearities make of the network: saturation and dead units."""

from ngram_mlp.callbacks.findings import Findings
from ngram_mlp.callbacks.observer import Observer
from ngram_mlp.looks import Look
from ngram_mlp.models import LanguageModel
from ngram_mlp.statistics import SATURATION, dead, mean_and_std, saturated

__all__ = ["ActivationStatistics"]


class ActivationStatistics(Observer):
    """Mean and deviation of each hidden layer before and after its non-linearity, saturated fraction, dead fraction.

    Histograms of both; figures of the distributions of all layers, and of the saturated cells, minibatch by units, as
    in notebook 004, at the first look and now.

    Args:
        cadence: when to look.
        layers: a pattern for the names of the hidden layers.
        saturation: the abs(tanh) above which a unit is saturated; for other non-linearities the same slope counts.
    """

    def __init__(self, cadence: str = "default", layers: str = "*", saturation: float = SATURATION) -> None:
        super().__init__(cadence, layers)
        self.saturation = saturation
        self._first: Look | None = None

    def observe(self, look: Look, model: LanguageModel, findings: Findings) -> None:
        layers = self.selected(look.nonlinearities)
        self._first = self._first or look
        numbers = {}
        for name, layer in layers.items():
            if findings.due.numbers:
                flat = saturated(layer.module, layer.input, self.saturation)
                numbers[f"saturated/{name}"] = flat.float().mean().item()
                numbers[f"dead_units/{name}"] = dead(flat).float().mean().item()
                for kind, x in (("preactivation", layer.input), ("activation", layer.output)):
                    numbers[f"{kind}_mean/{name}"], numbers[f"{kind}_std/{name}"] = mean_and_std(x)
            if findings.due.histograms:
                findings.histogram(f"preactivation/{name}", layer.input)
                findings.histogram(f"activation/{name}", layer.output)
        findings.numbers(numbers)
        if findings.due.figures and layers:
            self._draw(look, findings)

    def _draw(self, look: Look, findings: Findings) -> None:
        from ngram_mlp.figures import distributions_figure, saturation_figure

        activations, masks = {}, {}
        for a_look in (self._first or look, look):
            when, layers = f"update {a_look.update:,}", self.selected(a_look.nonlinearities)
            activations[when] = {name: layer.output for name, layer in layers.items()}
            for name, layer in layers.items():
                masks[f"{name}, {when}"] = saturated(layer.module, layer.input, self.saturation)
        title = "output of the non-linearities"
        findings.figure("activations", distributions_figure(title, "activation", activations))
        findings.figure("saturation", saturation_figure(masks))
