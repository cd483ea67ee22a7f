"""Optimizers: their steps as pure functions of tensors, and the state that they keep."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from multistep._errors import CannotFuseError

State = dict[str, Tensor]
# (parameter, gradient, its optimizer state, learning rate, its parameter group) -> (parameter, state) after the step
Formula = Callable[[Tensor, Tensor, State, Tensor, dict[str, Any]], tuple[Tensor, State]]
# What has the shape of its parameter in the state of torch's optimizers; `step` is one number.
OF_THE_SHAPE = {"momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}


def sgd(parameter: Tensor, gradient: Tensor, state: State, lr: Tensor, group: dict[str, Any]) -> tuple[Tensor, State]:
    """Stochastic gradient descent with (Nesterov) momentum and weight decay, as `torch.optim.SGD` computes it."""
    gradient = -gradient if group["maximize"] else gradient
    if group["weight_decay"] != 0:
        gradient = gradient + group["weight_decay"] * parameter
    if group["momentum"] != 0:
        momentum = group["momentum"]
        buffer = momentum * state["momentum_buffer"] + gradient
        gradient = gradient + momentum * buffer if group["nesterov"] else buffer
        state = {"momentum_buffer": buffer}
    return parameter - lr.to(parameter.dtype) * gradient, state


def adam(parameter: Tensor, gradient: Tensor, state: State, lr: Tensor, group: dict[str, Any]) -> tuple[Tensor, State]:
    """Adam (arXiv:1412.6980) and AdamW (arXiv:1711.05101), as torch computes them."""
    beta1, beta2 = group["betas"]
    gradient = -gradient if group["maximize"] else gradient
    if group["decoupled_weight_decay"]:
        parameter = parameter * (1 - lr * group["weight_decay"]).to(parameter.dtype)
    elif group["weight_decay"] != 0:
        gradient = gradient + group["weight_decay"] * parameter
    step = state["step"] + 1
    mean = torch.lerp(state["exp_avg"], gradient, 1 - beta1)
    square = beta2 * state["exp_avg_sq"] + (1 - beta2) * gradient * gradient
    # torch computes the corrections in Python's floats, hence float64.
    exponent = step.double()
    step_size = (lr / (1 - beta1**exponent)).to(parameter.dtype)
    correction = (1 - beta2**exponent).sqrt().to(parameter.dtype)
    parameter = parameter - step_size * mean / (square.sqrt() / correction + group["eps"])
    return parameter, {"step": step, "exp_avg": mean, "exp_avg_sq": square}


FORMULAS: dict[type[Optimizer], Formula] = {torch.optim.SGD: sgd, torch.optim.Adam: adam, torch.optim.AdamW: adam}


def create_state(optimizer: Optimizer) -> None:
    """Gives parameters without optimizer state the state with which their first step would begin."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            keys: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
            if isinstance(optimizer, torch.optim.SGD):
                keys = ("momentum_buffer",) if group["momentum"] != 0 else ()
            elif "step" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32)
            for key in keys:
                if state.get(key) is None:
                    state[key] = torch.zeros_like(parameter, memory_format=torch.preserve_format)


def formula_of(optimizer: Optimizer) -> Formula:
    """The formula of an optimizer; raises a CannotFuseError where none covers its class, options and hooks."""
    name = type(optimizer).__name__
    formula = FORMULAS.get(type(optimizer))
    if formula is None:
        raise CannotFuseError(f"the optimizer {name} has no functional form here (SGD, Adam and AdamW have)")
    for option in ("amsgrad", "dampening"):
        if any(group.get(option) for group in optimizer.param_groups):
            raise CannotFuseError(f"the functional form of {name} has no {option}")
    if has_step_hooks(optimizer):
        raise CannotFuseError(f"hooks are registered on the steps of the optimizer {name}")
    return formula


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Whether a hook is registered on the steps of this optimizer, or of all optimizers."""
    from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)


def check_state(optimizer: Optimizer) -> None:
    """Raises a ValueError where the state loaded into an optimizer does not fit its parameters."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            expected = parameter.shape if key in OF_THE_SHAPE else ()
            if key in {*OF_THE_SHAPE, "step"} and value is not None and getattr(value, "shape", None) != expected:
                raise ValueError(f"the optimizer's {key} is not of the shape {tuple(expected)}")
