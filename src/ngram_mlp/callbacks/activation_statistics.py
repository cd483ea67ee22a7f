"""What the non-linearities make of the network: saturation and dead units."""

from ngram_mlp.callbacks.observer import Observer
from ngram_mlp.callbacks.recorder import Recorder
from ngram_mlp.diagnostics.snapshot import Snapshot
from ngram_mlp.diagnostics.statistics import SATURATION, dead, mean_and_std, saturated
from ngram_mlp.models import LanguageModel


class ActivationStatistics(Observer):
    """Mean and std of each hidden layer before and after its non-linearity, saturated fraction, dead fraction.

    Histograms of both; figures of the distributions of all layers, and of the saturated cells, minibatch by units, as
    in notebook 004, at the first snapshot and now.

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
        self._first = self._first or snapshot
        numbers = {}
        for name, layer in layers.items():
            if recorder.due.numbers:
                flat = saturated(layer.module, layer.input, self.saturation)
                numbers[f"saturated/{name}"] = flat.float().mean().item()
                numbers[f"dead_units/{name}"] = dead(flat).float().mean().item()
                for kind, x in (("preactivation", layer.input), ("activation", layer.output)):
                    numbers[f"{kind}_mean/{name}"], numbers[f"{kind}_std/{name}"] = mean_and_std(x)
            if recorder.due.histograms:
                recorder.histogram(f"preactivation/{name}", layer.input)
                recorder.histogram(f"activation/{name}", layer.output)
        recorder.numbers(numbers)
        if recorder.due.figures and layers:
            self._draw(snapshot, recorder)

    def _draw(self, snapshot: Snapshot, recorder: Recorder) -> None:
        from ngram_mlp.diagnostics.figures import distributions_figure, saturation_figure

        activations, masks = {}, {}
        for shot in (self._first or snapshot, snapshot):
            when, layers = f"update {shot.update:,}", self.selected(shot.nonlinearities)
            activations[when] = {name: layer.output for name, layer in layers.items()}
            for name, layer in layers.items():
                masks[f"{name}, {when}"] = saturated(layer.module, layer.input, self.saturation)
        title = "output of the non-linearities"
        recorder.figure("activations", distributions_figure(title, "activation", activations))
        recorder.figure("saturation", saturation_figure(masks))
