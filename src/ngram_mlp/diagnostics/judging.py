"""What is wrong with a network, why, and what would help."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import nn

from ngram_mlp.diagnostics.snapshot import Snapshot
from ngram_mlp.diagnostics.statistics import SATURATION, dead, mean_and_std, saturated, saturated_by_nature
from ngram_mlp.diagnostics.verdicts import Level, Verdict


class Rule(NamedTuple):
    """How a number that should be small is judged."""

    about: str
    limits: tuple[float, float]  # ok up to the first; bad from the second, and where it is nan
    cause: str
    remedy: str

    def verdict(self, value: float, finding: str, excess: float | None = None, way: str = "") -> Verdict:
        """Judges the excess, by default the value itself; cause and remedy appear where something is wrong."""
        excess = value if excess is None else excess
        ok, bad = self.limits
        if excess <= ok:
            return Verdict(self.about, "ok", value, finding)
        level: Level = "warning" if excess < bad else "bad"
        return Verdict(self.about, level, value, f"{finding}: {self.cause.format(way=way)}", self.remedy)


NORMALIZE = "use hidden_weight: normal * gain / sqrt(fan_in), batch or layer norm, or residual: true"
FIRST_LOSS = Rule(
    "first loss",
    (1, 3),
    "the output layer is confidently wrong",
    "scale its weights down (output_weight: normal * 0.01), or use fan-in scaling, and start its bias at 0",
)
ALREADY_TRAINED = Rule(
    "first loss",
    (-math.inf, math.inf),
    "better than guessing, so these weights have been trained",
    "start from the constructor's weights",
)
LOGIT_SPREAD = Rule(  # normal logits with a std of s cost s^2 / 2 above ln(vocabulary size)
    "spread of the logits",
    (1.5, 2.5),
    "the output weights are too large for the number of their inputs",
    "divide them by the root of their fan-in (output_weight: normal / sqrt(fan_in)), or more",
)
SATURATED = Rule(
    "saturation",
    (0.2, 0.3),
    "its inputs are too large, and hardly any gradient comes through",
    "scale its weights (hidden_weight: normal * gain / sqrt(fan_in)), or use batch norm (BatchNormMLP)",
)
DEAD = Rule(
    "dead units",
    (0, 0.2),
    "saturated for every example of the minibatch, they get no gradient and do not learn",
    "scale the weights and biases before them down, or use batch norm (BatchNormMLP)",
)
GAIN = Rule(
    "gain of the hidden layers",
    (math.log(4), math.log(20)),
    "the activations {way} over depth, and the gradients with them",
    NORMALIZE,
)
SLOW = Rule("update:data ratio", (1.5, 2.5), "the weight hardly moves", "raise the learning rate")
FAST = Rule(
    "update:data ratio",
    (1.5, 2.5),
    "the weight jumps at every update",
    "lower the learning rate, or draw the weight larger",
)
GRADIENTS = Rule("gradient over depth", (1, 2), "gradients {way} on the way back", NORMALIZE)
STAYED_DEAD = Rule(
    "units that stayed dead",
    (0, 0.2),
    "they never learned",
    "scale the initial weights before them down, lower the learning rate, or use batch norm (BatchNormMLP)",
)
GAP = Rule(
    "train-validation gap",
    (0.15, 0.5),
    "the network memorizes its training words",
    "make it smaller, train it for fewer updates, add weight decay, or give it more words",
)


def judge_initialization(snapshot: Snapshot, saturation: float = SATURATION) -> list[Verdict]:
    """Verdicts on a network before its first update, from a snapshot of update 0, in the order of the notebooks."""
    expected = math.log(snapshot.logits.shape[1])
    excess = snapshot.loss - expected
    rule = ALREADY_TRAINED if excess < -0.5 else FIRST_LOSS
    spread = snapshot.logits.float().std(dim=1).mean().item()
    verdicts = [
        rule.verdict(snapshot.loss, f"{snapshot.loss:.2f}, expected {expected:.2f}", excess),
        LOGIT_SPREAD.verdict(spread, f"std {spread:.2f}"),
    ]
    if layers := snapshot.nonlinearities:
        masks = {name: saturated(layer.module, layer.input, saturation) for name, layer in layers.items()}
        fractions = {name: mask.float().mean().item() for name, mask in masks.items()}
        by_nature = {name: saturated_by_nature(layer.module, saturation) for name, layer in layers.items()}
        name, excess = _largest({name: fraction - by_nature[name] for name, fraction in fractions.items()})
        finding = f"{fractions[name]:.0%} of the cells of {name}, where a normal input gives {by_nature[name]:.0%}"
        verdicts.append(SATURATED.verdict(fractions[name], finding, excess))
        name, share = _largest({name: dead(mask).float().mean().item() for name, mask in masks.items()})
        verdicts += [DEAD.verdict(share, f"{share:.1%} of {name}"), _gain(snapshot)]
    return verdicts


def judge_training(
    ratios: Mapping[str, Sequence[float]],  # by weight, the finite log10 of the update:data ratios of all snapshots
    gradients: Sequence[float],  # the std of the gradient at the output of each hidden layer, in order
    dead_fractions: Mapping[str, float],  # by hidden layer, the fraction of units that were dead in every snapshot
    losses: tuple[float, float] | None,  # the mean training loss at the end, and the validation loss
) -> list[Verdict]:
    """Verdicts on a training that has ended."""
    verdicts = []
    if medians := {name: sorted(values)[len(values) // 2] for name, values in ratios.items() if values}:
        name, excess = _largest({name: abs(median + 3) for name, median in medians.items()})
        rule = SLOW if medians[name] < -3 else FAST
        finding = f"1e{medians[name]:.1f} for {name}, the furthest from 1e-3"
        verdicts.append(rule.verdict(medians[name], finding, excess))
    if len(gradients) > 1:
        ratio = gradients[0] / gradients[-1] if gradients[-1] else math.inf
        finding = f"at the first hidden layer {ratio:.2g} of that at the last"
        excess = abs(math.log10(ratio)) if ratio > 0 else math.inf
        verdicts.append(GRADIENTS.verdict(ratio, finding, excess, "vanish" if ratio < 1 else "explode"))
    if dead_fractions:
        name, share = _largest(dead_fractions)
        verdicts.append(STAYED_DEAD.verdict(share, f"{share:.1%} of {name} in every snapshot"))
    if losses:
        train, val = losses
        verdicts.append(GAP.verdict(val - train, f"val {val:.3f}, train {train:.3f} over the last updates"))
    return verdicts


def _gain(snapshot: Snapshot) -> Verdict:
    """The std of the last hidden activation over that of the first linear layer's input; each layer's in the text."""
    first = next((layer.input for layer in snapshot.layers.values() if isinstance(layer.module, nn.Linear)), None)
    activations = [layer.output for layer in snapshot.nonlinearities.values()]
    spreads = [mean_and_std(x)[1] for x in ([] if first is None else [first]) + activations]
    gains = [after / before if before else math.nan for before, after in pairwise(spreads)]
    total = math.prod(gains)
    finding = f"std out over std in {', '.join(f'{gain:.2f}' for gain in gains)}, together {total:.2g}"
    excess = abs(math.log(total)) if total > 0 else math.inf
    return GAIN.verdict(total, finding, excess, "explode" if total > 1 else "vanish")


def _largest(values: Mapping[str, float]) -> tuple[str, float]:
    return max(values.items(), key=lambda item: item[1])
