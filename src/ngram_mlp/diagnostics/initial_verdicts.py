"""Judges a network before its first update: what is wrong, why, and what would help.

docs/verdicts.md shows how the limits were chosen, and how often the verdicts are right.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ngram_mlp.data import NGramDataModule, NGrams
from ngram_mlp.diagnostics.snapshot import LayerSnapshot, Snapshot, take_snapshot
from ngram_mlp.diagnostics.statistics import SATURATION, baseline_saturation, dead, mean_and_std, saturated
from ngram_mlp.diagnostics.trial import UPDATES, Trial, try_updates
from ngram_mlp.diagnostics.verdicts import Remedy, Rule, Verdict
from ngram_mlp.models import LanguageModel
from runlab import flattened

EXAMPLES = 4096  # of the training split, to judge a network from
LARGEST_LOGITS = 2**25
RATIO = -2.4  # log10 of update:data that a remedy aims at: the median of networks that trained well

SMALL_OUTPUT = Remedy(
    "start the output layer small",
    {"initialization.output_weight": "normal * 0.01", "initialization.output_bias": "constant * 0"},
)
SCALED = Remedy(
    "scale the hidden weights to their fan-in",
    {"initialization.hidden_weight": "normal * gain / sqrt(fan_in)", "initialization.hidden_bias": "auto"},
)
NORMALIZED = Remedy("normalize the hidden layers", {"norm.kind": "layer"})
FIRST_LOSS = Rule("first loss", (1, 15), "the output layer is confidently wrong", [SMALL_OUTPUT])
ALREADY_TRAINED = Rule(
    "first loss",
    (-math.inf, math.inf),
    "better than guessing, so these weights are already trained",
    [Remedy("start from freshly initialized weights")],
)
SATURATED = Rule(
    "saturation",
    (0.3, 0.5),
    "its inputs are too large; hardly any gradient passes",
    [SCALED, NORMALIZED],
)
DEAD = Rule(
    "dead units",
    (0.1, 0.3),
    "saturated for every example, so they get no gradient and do not learn",
    [SCALED, NORMALIZED],
)
GRADIENTS = Rule("gradient over depth", (1, 1.5), "gradients change from layer to layer", [NORMALIZED, SCALED])
FAST = Rule("learning rate", (-1.3, -1), "the weights jump at every update", [])
DIVERGES = Rule("learning rate", (0.5, 2), "the updates increase the loss", [])
SLOW = Rule("learning rate", (3.2, 3.5), "the weights hardly move", [])
SEEN = Rule("examples seen", (0, math.inf), "the run ends before seeing every example", [])
REPEATED = Rule("examples seen", (1, 2), "the network will overfit", [])
ZERO = Rule(
    "weights",
    (-1, -0.5),
    "all units of a layer stay identical",
    [SCALED, Remedy("initialize the weights randomly")],
)
LARGEST_BATCH = 1024  # that a remedy suggests


@dataclass(frozen=True)
class Budget:
    """The amount of training in a run."""

    updates: int
    batch_size: int  # examples in a minibatch
    examples: int  # in the training split
    parameters: int
    validates: bool = True  # if False, overfitting is no concern
    accumulated: int = 1  # the minibatches of an update


def judge_model(
    model: LanguageModel,
    data: NGramDataModule,
    updates: int,
    *,
    accumulated: int = 1,
    validates: bool = True,
    clip: Callable[[list[Tensor]], Any] | None = None,
    saturation: float = SATURATION,
) -> list[Verdict]:
    """Returns verdicts on a model before its first update, from 4,096 examples and a trial of 32 updates.

    Args:
        model: in training mode; left unchanged.
        data: the data whose training split the model will see.
        updates: the updates of the run; sys.maxsize if unknown.
        accumulated: the minibatches of an update.
        validates: whether the run is validated.
        clip: clips the gradients of parameters.
        saturation: the abs(tanh) above which a unit is saturated.
    """
    train, device = data.splits["train"], next(model.parameters()).device
    contexts, targets = (x.to(device) for x in evenly_spaced(train, enough_of(len(data.tokenizer))))
    snapshot = take_snapshot(model.network, contexts, targets)
    configured = model.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else None
    trial = try_updates(model.network, optimizer, _drawn(train, data.batch_size, device), clip) if optimizer else None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    known = updates < sys.maxsize
    size = min(data.batch_size, len(train)) if data.sampling == "epochs" else data.batch_size
    sizes = size, len(train), parameters, validates, accumulated
    budget = Budget(updates, *sizes) if known else None
    return judge_initialization(snapshot, trial, budget, arguments_of(model), saturation)


def judge_initialization(
    snapshot: Snapshot,
    trial: Trial | None = None,
    budget: Budget | None = None,
    arguments: Mapping[str, Any] | None = None,
    saturation: float = SATURATION,
) -> list[Verdict]:
    """Returns verdicts on a network before its first update.

    Args:
        snapshot: of update 0, from as many examples as possible.
        trial: a trial of some updates.
        budget: the budget of the run.
        arguments: the model's constructor arguments, nested ones as `outer.inner`; remedies name only what it lacks.
        saturation: the abs(tanh) above which a unit is saturated.
    """
    expected = math.log(snapshot.logits.shape[1])
    excess = snapshot.loss - expected
    rule = ALREADY_TRAINED if excess < -0.5 else FIRST_LOSS
    if rule is FIRST_LOSS and (smaller := _of_norms("on_logits", "logits_gain", 0.1, arguments)):
        rule = rule._replace(remedies=smaller)
    verdicts = [rule.verdict(snapshot.loss, f"{snapshot.loss:.2f}, expected {expected:.2f}", excess, arguments)]
    zero = bool(snapshot.weights) and not any(weight.value.any() for weight in snapshot.weights.values())
    if zero:
        verdicts.append(ZERO.verdict(0, "all are zero", 0, arguments))
    if layers := snapshot.nonlinearities:
        verdicts += judge_units(layers, SATURATED, arguments, saturation)
        if len(layers) > 1:
            verdicts.append(_over_depth([mean_and_std(layer.gradient)[1] for layer in layers.values()], arguments))
    if trial and not zero:
        verdicts.append(_learning_rate(trial))
    if budget:
        verdicts.append(_examples_seen(budget))
    return verdicts


def judge_units(
    layers: Mapping[str, LayerSnapshot], rule: Rule, arguments: Mapping[str, Any] | None, saturation: float
) -> list[Verdict]:
    """Returns verdicts on the saturated cells, by this rule, and on the dead units of the non-linearities."""
    rules = [one._replace(remedies=[*_of_norms("gain", "gain", 1.0, arguments), *one.remedies]) for one in (rule, DEAD)]
    masks = {name: saturated(layer.module, layer.input, saturation) for name, layer in layers.items()}
    shares = {name: mask.float().mean().item() for name, mask in masks.items()}
    baseline = {name: baseline_saturation(layer.module, saturation) for name, layer in layers.items()}
    name, excess = _largest({name: share - baseline[name] for name, share in shares.items()})
    finding = f"{shares[name]:.0%} of {name}'s activations ({baseline[name]:.0%} for a standard normal input)"
    verdict = rules[0].verdict(shares[name], finding, excess, arguments)
    name, share = _largest({name: dead(mask).float().mean().item() for name, mask in masks.items()})
    return [verdict, rules[1].verdict(share, f"{share:.1%} of {name}", share, arguments)]


def _of_norms(condition: str, gain: str, value: float, arguments: Mapping[str, Any] | None) -> list[Remedy]:
    """Returns the remedy of setting a gain of the model's norm, if an argument of the norm is set that calls for it."""
    norms = [
        norm for norm in ("norm", "batch_norm") if (arguments or {}).get(f"{norm}.{condition}", value) not in (value, 0)
    ]
    return [Remedy(f"normalize to a gain of {value:g}", {f"{norm}.{gain}": value}) for norm in norms]


def arguments_of(model: LanguageModel) -> dict[str, Any]:
    """Returns the constructor arguments of a model, nested ones as `outer.inner`."""
    return dict(flattened(dict(model.hparams)))


def enough_of(vocab_size: int) -> int:
    """Returns how many examples to judge a network from: fewer if a large vocabulary makes the logits large."""
    return min(EXAMPLES, LARGEST_LOGITS // vocab_size + 1)


def evenly_spaced(ngrams: NGrams, count: int) -> tuple[Tensor, Tensor]:
    """Returns `count` evenly spaced contexts and targets, in int64, or all if there are fewer."""
    some = ngrams.some(count)
    return some.contexts.long(), some.targets.long()


def _largest(values: Mapping[str, float]) -> tuple[str, float]:
    """Returns the name with the largest value, and the value."""
    return max(values.items(), key=lambda item: item[1])


def _drawn(ngrams: NGrams, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)  # nothing may draw from the run's own stream
    size = min(batch_size, EXAMPLES)  # a larger one has much the same gradient, and would take its time 32 times
    for _ in range(UPDATES):
        examples = torch.randint(len(ngrams), (size,), generator=generator)
        yield ngrams.contexts[examples].long().to(device), ngrams.targets[examples].long().to(device)


def _over_depth(gradients: list[float], arguments: Mapping[str, Any] | None) -> Verdict:
    """Judges the std of the gradient at the first hidden layer relative to that at the last."""
    ratio = gradients[0] / gradients[-1] if gradients[-1] else math.inf
    excess = abs(math.log10(ratio)) if ratio > 0 else math.inf
    finding = f"first / last hidden layer = {ratio:.2g}"
    rule = GRADIENTS._replace(cause=f"gradients {'vanish' if ratio < 1 else 'explode'} towards the first layer")
    return rule.verdict(ratio, finding, excess, arguments)


def _learning_rate(trial: Trial) -> Verdict:
    after = f"after {len(trial.losses)} trial updates"
    if trial.rise > DIVERGES.limits[0]:
        rule, excess, finding = DIVERGES, trial.rise, f"loss {trial.losses[0]:.2f}, {trial.losses[-1]:.3g} {after}"
    else:
        rule, excess = (FAST, trial.ratio) if trial.ratio > RATIO else (SLOW, -trial.ratio)
        finding = f"update:data 1e{trial.ratio:.1f} {after}"
    power = RATIO - (trial.first_ratio if rule is DIVERGES else trial.ratio)  # before the trial diverged
    if rule is DIVERGES and power >= 0:  # its first updates were small, though
        power = -1.0
    better = {trial.option: f"{trial.lr * 10**power:.1g}"} if trial.option and math.isfinite(power) else {}
    remedy = Remedy("raise it" if rule is SLOW else "lower it", better)
    return rule._replace(remedies=[remedy]).verdict(trial.ratio, finding, excess)


def _examples_seen(budget: Budget) -> Verdict:
    each = budget.batch_size * budget.accumulated
    drawn = budget.updates * each
    passes = drawn / budget.examples
    finding = f"each of {budget.examples:,} examples about {passes:,.1f} times"
    repeated = math.sqrt(passes / 100 * budget.parameters / budget.examples)
    if budget.validates and repeated > REPEATED.limits[0]:
        # 20 passes; for a run of fewer, those up to which it has no warning.
        enough = 20 if passes > 20 else 100 * budget.examples / budget.parameters
        fewer = min(_rounded_up(enough * budget.examples / each), budget.updates - 1)
        remedies = [*([Remedy("stop early", {"max_steps": fewer})] if fewer else []), Remedy("add data")]
        return REPEATED._replace(remedies=remedies).verdict(passes, finding, repeated)
    wanted = budget.examples / (max(1, budget.updates) * budget.accumulated)
    size = 2 ** math.ceil(math.log2(max(wanted, 32)))  # a power of two, as usual
    remedies = [Remedy("train longer", {"max_steps": _rounded_up(budget.examples / each)})]
    if size <= LARGEST_BATCH:
        remedies.append(Remedy("use larger minibatches", {"batch_size": size}))
    if passes < 1:
        finding = f"{drawn:,} of the {budget.examples:,} in the training split"
    return SEEN._replace(remedies=remedies).verdict(passes, finding, 1 - passes)


def _rounded_up(number: float) -> int:
    """Returns a number of updates rounded up to two digits, the rest zeros."""
    unit: int = 10 ** max(0, math.floor(math.log10(max(1.0, number))) - 1)
    return math.ceil(number / unit) * unit
