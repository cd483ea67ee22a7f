"""Judges a run at its end, and names what would have helped.

docs/verdicts.md shows how the limits were chosen, and how often the verdicts are right.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ngram_mlp.diagnostics.initial_verdicts import SATURATED, judge_units
from ngram_mlp.diagnostics.snapshot import Snapshot
from ngram_mlp.diagnostics.statistics import SATURATION
from ngram_mlp.diagnostics.verdicts import Level, Remedy, Rule, Verdict

GAP = Rule(
    "train-validation gap",
    (0.6, 0.8),
    "the network overfits",
    [Remedy("stop earlier, use a smaller network, or add data")],
)
SATURATED_AT_THE_END = SATURATED._replace(limits=(0.5, 0.5))  # lower fractions occur in good networks too
LARGE_GAP = 0.2
BEHIND = 0.15  # nats by which the best counted model may be better
DIVERGED = 2  # times the loss before training; above it, nothing else is worth judging
FALLING = Rule("end of the loss curve", (0.01, 0.1), "the loss is still falling", [Remedy("train longer")])
SLOW = Rule("update:data ratio", (4.5, 5.5), "the weights hardly moved", [Remedy("raise the learning rate")])
FAST = Rule("update:data ratio", (-1.5, -1), "the weights jumped at every update", [Remedy("lower the learning rate")])


def judge_training(
    losses: Tensor,
    metrics: Mapping[str, float],
    counted: Mapping[str, float],
    ratios: Sequence[tuple[int, float]] = (),
    snapshot: Snapshot | None = None,
    arguments: Mapping[str, Any] | None = None,
    saturation: float = SATURATION,
) -> list[Verdict]:
    """Returns verdicts on a finished run.

    Args:
        losses: the loss of every update, (updates,).
        metrics: the loss of the trained network on `train`, and on `val` unless nothing was validated.
        counted: the losses of n-gram models and of `guessing` on `val`, or on `train` if nothing was validated.
        ratios: (update, log10 of norm(update) / norm(weights)); only the second half counts.
        snapshot: the trained network's, from many training examples.
        arguments: the model's constructor arguments, as for `judge_initialization`.
        saturation: the abs(tanh) above which a unit is saturated.
    """
    gap = metrics.get("val", metrics["train"]) - metrics["train"]
    if len(losses) and metrics["train"] > DIVERGED * max(float(losses[0]), counted.get("guessing", 0.0)):
        found = f"diverged: train {metrics['train']:.4g}, and {float(losses[0]):.4g} at update 0"
        return [Verdict("outcome", "bad", metrics["train"], found, "lower the learning rate")]
    verdicts = [_outcome(metrics, counted, gap)]
    if len(losses) >= 50:
        verdicts.append(_end_of_curve(losses, gap))
    if "val" in metrics:
        verdicts.append(GAP.verdict(gap, f"val {metrics['val']:.3f}, train {metrics['train']:.3f}"))
    if late := sorted(ratio for update, ratio in ratios if update >= len(losses) // 2 and math.isfinite(ratio)):
        ratio = late[len(late) // 2]
        rule, excess = (FAST, ratio) if ratio > -3 else (SLOW, -ratio)
        verdicts.append(rule.verdict(ratio, f"1e{ratio:.1f} in the second half", excess))
    if snapshot and (layers := snapshot.nonlinearities):
        verdicts += judge_units(layers, SATURATED_AT_THE_END, arguments, saturation)
    return verdicts


def _outcome(metrics: Mapping[str, float], counted: Mapping[str, float], gap: float) -> Verdict:
    """Judges the loss against guessing and the best counted model: a network that they beat is of little use."""
    split = "val" if "val" in metrics else "train"
    loss = metrics[split]
    known, beaten = f"{split} {loss:.3f}", {name for name, other in counted.items() if loss < other}
    unbeaten = counted.keys() - beaten
    for names, comparison in ((beaten, "better"), (unbeaten & {"guessing"} or unbeaten, "worse")):
        if names:
            name = min(names, key=lambda name: counted[name])
            known += f", {comparison} than {name if name == 'guessing' else f'counting {name}'} ({counted[name]:.3f})"
    level: Level = "ok"
    if unbeaten & {"guessing", "unigrams"}:
        level, known = "bad", f"{known}: the network has learned nothing about sequences"
    elif counted and loss > min(counted.values()) + BEHIND:
        level, known = "warning", f"{known}: the network has learned little"
    remedy = "" if level == "ok" else "see the verdicts from before the first update"
    if remedy and gap < LARGE_GAP:
        remedy += ", or train longer"
    return Verdict("outcome", level, loss, known, remedy)


def _end_of_curve(losses: Tensor, gap: float) -> Verdict:
    """Judges how much the loss would fall in another fifth of the run at the slope of the last fifth.

    The training loss of a network that overfits keeps falling; that is no reason to train longer.
    """
    last = losses[-(len(losses) // 5) :].double()
    time = torch.linspace(-0.5, 0.5, len(last), dtype=torch.float64)
    slope = (time @ last) / (time @ time)
    residual = last - last.mean() - slope * time
    error = math.sqrt(float(residual.square().sum() / (len(last) - 2) / (time @ time)))
    fall = -float(slope)
    finding = f"changed by {-fall:+.3f} ± {2 * error:.3f} over the last fifth"
    if abs(fall) <= 2 * error and 2 * error > FALLING.limits[0]:
        finding += ", too noisy to tell"
    return FALLING.verdict(fall, finding, fall if fall > 2 * error and gap < LARGE_GAP else 0)
