"""What is wrong with a network, why, and what would help."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from ngram_mlp.diagnostics.snapshot import Snapshot
from ngram_mlp.diagnostics.statistics import SATURATION, dead, mean_and_std, saturated, saturated_by_nature
from ngram_mlp.diagnostics.verdicts import Level, Verdict

NORMALIZE = "use hidden_weight: normal * gain / sqrt(fan_in), batch or layer norm, or residual: true"


def judge_initialization(snapshot: Snapshot, saturation: float = SATURATION) -> list[Verdict]:
    """Verdicts on a network before its first update, from a snapshot of update 0.

    In the order of the notebooks: the first loss against ln(vocabulary size), the spread of the logits, saturation,
    dead units, and how the spread of the activations changes over the hidden layers.
    """
    verdicts = [_first_loss(snapshot), _logit_spread(snapshot)]
    layers = snapshot.nonlinearities
    if layers:
        masks = {name: saturated(layer.module, layer.input, saturation) for name, layer in layers.items()}
        by_nature = {name: saturated_by_nature(layer.module, saturation) for name, layer in layers.items()}
        verdicts += [_saturation(masks, by_nature), _dead_units(masks), _gain(snapshot)]
    return verdicts


def judge_training(
    ratios: Mapping[str, Sequence[float]],
    gradients: Sequence[float],
    dead_fractions: Mapping[str, float],
    losses: tuple[float, float] | None,
) -> list[Verdict]:
    """Verdicts on a training that has ended.

    Args:
        ratios: by weight, the finite log10 of the update:data ratios of all snapshots.
        gradients: the standard deviations of the gradient at the hidden layers' outputs, first layer first.
        dead_fractions: by hidden layer, the fraction of units that were dead in every snapshot.
        losses: the mean training loss at the end and the validation loss, if there was one.
    """
    verdicts = []
    medians = {name: sorted(values)[len(values) // 2] for name, values in ratios.items() if values}
    if medians:
        verdicts.append(_update_ratio(medians))
    if len(gradients) > 1:
        verdicts.append(_gradients_over_depth(gradients))
    if dead_fractions:
        verdicts.append(_stayed_dead(dead_fractions))
    if losses:
        verdicts.append(_gap(*losses))
    return verdicts


def _first_loss(snapshot: Snapshot) -> Verdict:
    expected = math.log(snapshot.logits.shape[1])
    excess = snapshot.loss - expected
    fresh = not excess < -0.5
    return _verdict(
        "first loss",
        _level(excess, ok=1, bad=3) if fresh else "warning",
        snapshot.loss,
        f"{snapshot.loss:.2f}, expected {expected:.2f}",
        "the output layer is confidently wrong"
        if fresh
        else "better than guessing, so these weights have been trained",
        "scale its weights down (output_weight: normal * 0.01), or use fan-in scaling, and start its bias at 0"
        if fresh
        else "start from the constructor's weights",
    )


def _logit_spread(snapshot: Snapshot) -> Verdict:
    """The std over the characters; normal logits with a std of s cost s^2 / 2 above ln(vocabulary size)."""
    spread = snapshot.logits.float().std(dim=1).mean().item()
    return _verdict(
        "spread of the logits",
        _level(spread, ok=1.5, bad=2.5),
        spread,
        f"std {spread:.2f}",
        "the output weights are too large for the number of their inputs",
        "divide them by the root of their fan-in (output_weight: normal / sqrt(fan_in)), or more",
    )


def _saturation(masks: Mapping[str, Tensor], by_nature: Mapping[str, float]) -> Verdict:
    fractions = {name: mask.float().mean().item() for name, mask in masks.items()}
    name = max(fractions, key=lambda name: fractions[name] - by_nature[name])
    return _verdict(
        "saturation",
        _level(fractions[name] - by_nature[name], ok=0.2, bad=0.3),
        fractions[name],
        f"{fractions[name]:.0%} of the cells of {name}, where a normal input gives {by_nature[name]:.0%}",
        "its inputs are too large, and hardly any gradient comes through",
        "scale its weights (hidden_weight: normal * gain / sqrt(fan_in)), or use batch norm (BatchNormMLP)",
    )


def _dead_units(masks: Mapping[str, Tensor]) -> Verdict:
    share = {name: dead(mask).float().mean().item() for name, mask in masks.items()}
    name = max(share, key=lambda name: share[name])
    return _verdict(
        "dead units",
        _level(share[name], ok=0, bad=0.2),
        share[name],
        f"{share[name]:.1%} of {name}",
        "saturated for every example of the minibatch, they get no gradient and do not learn",
        "scale the weights and biases before them down, or use batch norm (BatchNormMLP)",
    )


def _gain(snapshot: Snapshot) -> Verdict:
    """The std of the last hidden activation over that of the first linear layer's input; each layer's in the text."""
    first = next((layer for layer in snapshot.layers.values() if isinstance(layer.module, nn.Linear)), None)
    spreads = [] if first is None else [mean_and_std(first.input)[1]]
    spreads += [mean_and_std(layer.output)[1] for layer in snapshot.nonlinearities.values()]
    gains = [after / before if before else math.nan for before, after in pairwise(spreads)]
    total = math.prod(gains)
    return _verdict(
        "gain of the hidden layers",
        _level(abs(math.log(total)), ok=math.log(4), bad=math.log(20)) if total > 0 else "bad",
        total,
        f"std out over std in {', '.join(f'{gain:.2f}' for gain in gains)}, together {total:.2g}",
        f"the activations {'explode' if total > 1 else 'vanish'} over depth, and the gradients with them",
        NORMALIZE,
    )


def _update_ratio(medians: Mapping[str, float]) -> Verdict:
    name = max(medians, key=lambda name: abs(medians[name] + 3))
    value = medians[name]
    slow = value < -3
    return _verdict(
        "update:data ratio",
        _level(abs(value + 3), ok=1.5, bad=2.5),
        value,
        f"1e{value:.1f} for {name}, the furthest from 1e-3",
        "the weight hardly moves" if slow else "the weight jumps at every update",
        "raise the learning rate" if slow else "lower the learning rate, or draw the weight larger",
    )


def _gradients_over_depth(gradients: Sequence[float]) -> Verdict:
    ratio = gradients[0] / gradients[-1] if gradients[-1] else math.inf
    return _verdict(
        "gradient over depth",
        _level(abs(math.log10(ratio)), ok=1, bad=2) if 0 < ratio < math.inf else "bad",
        ratio,
        f"at the first hidden layer {ratio:.2g} of that at the last",
        f"gradients {'vanish' if ratio < 1 else 'explode'} on the way back",
        NORMALIZE,
    )


def _stayed_dead(fractions: Mapping[str, float]) -> Verdict:
    name = max(fractions, key=lambda name: fractions[name])
    return _verdict(
        "units that stayed dead",
        _level(fractions[name], ok=0, bad=0.2),
        fractions[name],
        f"{fractions[name]:.1%} of {name} in every snapshot",
        "they never learned",
        "scale the initial weights before them down, lower the learning rate, or use batch norm (BatchNormMLP)",
    )


def _gap(train: float, val: float) -> Verdict:
    return _verdict(
        "train-validation gap",
        _level(val - train, ok=0.15, bad=0.5),
        val - train,
        f"val {val:.3f}, train {train:.3f} over the last updates",
        "the network memorizes its training words",
        "make it smaller, train it for fewer updates, add weight decay, or give it more words",
    )


def _verdict(about: str, level: Level, value: float, measured: str, cause: str, remedy: str) -> Verdict:
    """The cause and the remedy appear where something is wrong."""
    if level == "ok":
        return Verdict(about, level, value, measured)
    return Verdict(about, level, value, f"{measured}: {cause}", remedy)


def _level(value: float, ok: float, bad: float) -> Level:
    """How a value that should be small is judged: ok up to one limit, bad from the other; nan is bad."""
    if not value < bad:
        return "bad"
    return "ok" if value <= ok else "warning"
