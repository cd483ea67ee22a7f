"""Computes the learning rates of upcoming updates."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, MultiStepLR, StepLR

from multistep._describe import describe
from multistep._origins import module_of


def upcoming_rates(
    optimizer: Optimizer, configs: Sequence[Any], first_batch: int, ends: Sequence[bool], progress: Any
) -> Tensor:
    """Returns the learning rates of upcoming minibatches, and steps the schedules past them, as Lightning would.

    Args:
        optimizer: the optimizer whose rates are returned.
        configs: Lightning's configurations of the schedules.
        first_batch: the number of the first minibatch in its epoch.
        ends: for each minibatch, whether it ends an update.
        progress: Lightning's progress record of schedule steps.

    Returns:
        float64, (minibatches, parameter groups). There are fewer minibatches if a schedule changed more than the
        learning rate: the rest must be performed with other options.
    """
    stepped = [config for config in configs if config.interval == "step" and not config.reduce_on_plateau]
    rates = torch.empty(len(ends), len(optimizer.param_groups), dtype=torch.float64)
    optimizer._opt_called = True  # type: ignore[attr-defined]  # schedules check it before their first step
    skips = len(stepped) == 1 and stepped[0].frequency == 1 and all(ends)
    options = None if all(map(_is_of_torch, all_in(stepped))) else _options(optimizer)
    minibatch = 0
    while minibatch < len(ends):
        constant = len(ends) - minibatch - 1
        if stepped:
            constant = min(steps_without_effect(stepped[0].scheduler), constant) if skips else 0
        present = [float(group["lr"]) for group in optimizer.param_groups]
        rates[minibatch : minibatch + constant + 1] = torch.tensor(present, dtype=torch.float64)
        if constant and stepped:  # stepping the schedule instead would cost 5 % of a fused update
            _set_ahead(stepped[0].scheduler, progress, constant)
        minibatch += constant + 1
        if ends[minibatch - 1]:
            for config in stepped:
                if (first_batch + minibatch) % config.frequency == 0:
                    progress.increment_ready()
                    config.scheduler.step()
                    progress.increment_completed()
        if options is not None and _options(optimizer) != options:
            break
    return rates[:minibatch]


def _set_ahead(scheduler: Any, progress: Any, steps: int) -> None:
    """Advances a schedule, and Lightning's progress record of it, by steps that change no rate."""
    scheduler.last_epoch += steps
    scheduler._step_count += steps
    for account in (progress.total, progress.current):
        account.ready += steps
        account.completed += steps


def changes_more_than_the_learning_rate(scheduler: Any) -> bool:
    """Returns whether a schedule, or one nested in it, also cycles the momentum."""
    inner = getattr(scheduler, "_schedulers", [])
    return bool(getattr(scheduler, "cycle_momentum", False)) or any(map(changes_more_than_the_learning_rate, inner))


def steps_without_effect(scheduler: LRScheduler) -> int:
    """Returns how many of the schedule's next steps are known to leave the learning rate unchanged."""
    if {"step", "get_lr"} & vars(scheduler).keys():  # set by the user
        return 0
    if type(scheduler) is StepLR and not isinstance(scheduler.step_size, int):
        return 0
    if type(scheduler) is MultiStepLR:
        whole = [
            milestone for milestone in scheduler.milestones if milestone == int(milestone)
        ]  # others have no effect
        following = [milestone for milestone in whole if milestone > scheduler.last_epoch]
        return int(min(following, default=2**62)) - scheduler.last_epoch - 1
    if type(scheduler) is StepLR:
        return scheduler.step_size - scheduler.last_epoch % scheduler.step_size - 1
    if type(scheduler) is ConstantLR and scheduler.factor == 1:
        return 2**62
    return 0


def is_of_ones_own(scheduler: Any) -> bool:
    """Returns whether a schedule, or one nested in it, is not torch's or calls a function that is not torch's."""
    if any(map(is_of_ones_own, getattr(scheduler, "_schedulers", []))) or not _is_of_torch(scheduler):
        return True
    held = [item for value in vars(scheduler).values() for item in (value if isinstance(value, list) else [value])]
    return any(callable(item) and not module_of(item).startswith("torch") for item in held)


def all_in(configs: Sequence[Any]) -> list[Any]:
    """Returns all schedules of these configurations, including nested ones."""
    return [each for config in configs for each in schedulers_in(config.scheduler)]


def functions_of(schedulers: Sequence[Any]) -> list[Any]:
    """Returns the `lr_lambda` functions of schedules."""
    return [function for each in schedulers for function in getattr(each, "lr_lambdas", ())]


def schedulers_in(scheduler: Any) -> list[Any]:
    """Returns a schedule and all schedules nested in it."""
    return [scheduler, *(each for inner in getattr(scheduler, "_schedulers", ()) for each in schedulers_in(inner))]


def _is_of_torch(scheduler: Any) -> bool:
    return vars(lr_scheduler).get(type(scheduler).__name__) is type(scheduler)


def _options(optimizer: Optimizer) -> Any:
    return describe([{k: v for k, v in g.items() if k not in ("params", "lr")} for g in optimizer.param_groups])
