"""Performs a torch optimizer's own `step` on copies, and makes it traceable."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from multistep._describe import describe
from multistep._errors import CannotFuseError
from multistep._guards import identical
from multistep._origins import module_of
from multistep._reach import held_in

NAMES = {"alpha", "value"}  # keyword arguments that are factors
TENSORS_BY_OTHER_MEANS = {"foreach": False, "fused": False, "capturable": True}


class TensorScalars(TorchFunctionMode):
    """Computes products with tensors as `alpha=` and `value=`, where torch accepts only numbers.

    Args:
        by_reciprocal: whether to replace division by a scalar tensor, and in `addcdiv`, by multiplication with the
            reciprocal: a division of vectors takes a processor as long as a dozen products. The reciprocal of a tiny
            number is infinite; torch's optimizers do not divide by any.
    """

    TERMS: ClassVar[dict[str, Callable[..., Tensor]]] = {
        "add": lambda x: x,
        "sub": lambda x: -x,
        "addcmul": lambda x, y: x * y,
        "addcdiv": lambda x, y: x / y,
    }
    QUOTIENTS = ("div", "truediv", "itruediv")

    def __init__(self, by_reciprocal: bool) -> None:
        super().__init__()
        self._by_reciprocal = by_reciprocal

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        x: Any = args[0] if args else None
        rest = args[1:]
        plain, in_place = name.strip("_"), name.endswith("_") and not name.startswith("__")
        factor: Any = next((kwargs[key] for key in ("alpha", "value") if key in kwargs), 1)
        if plain in self.TERMS and (isinstance(factor, Tensor) or plain == "addcdiv") and kwargs.keys() <= NAMES:
            if plain == "addcdiv" and self._by_reciprocal:
                rest, plain = (rest[0], rest[1].reciprocal()), "addcmul"
            term = self.TERMS[plain](*rest)
            if isinstance(factor, Tensor) or factor != 1:
                term = term * (factor.to(x.dtype) if isinstance(factor, Tensor) else factor)
            return x.add_(term) if in_place else x + term
        divides = self._by_reciprocal and plain in self.QUOTIENTS and len(rest) == 1 and not kwargs
        if divides and _is_scalar_of(rest[0], x):
            inverse = rest[0].reciprocal()
            return x.mul_(inverse) if in_place or plain == "itruediv" else x * inverse
        return func(*args, **kwargs)


def _is_scalar_of(divisor: Any, x: Any) -> bool:
    both = isinstance(x, Tensor) and isinstance(divisor, Tensor)
    return both and x.dim() > divisor.dim() == 0 and divisor.is_floating_point()


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Returns whether a step hook is registered on this optimizer, or on all optimizers."""
    from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)


def is_torchs(optimizer: Optimizer) -> bool:
    """Returns whether the step is one of torch's. All but LBFGS call their closure once, before anything else."""
    step: Any = type(optimizer).step
    layers = [step]
    while (step := getattr(step, "__wrapped__", None)) is not None:
        layers.append(step)
    return all(module_of(layer).startswith("torch.") for layer in layers)


def _of_torch() -> None:
    """Stands for a step, to find torch's wrapper of every step."""


HOOKED = Optimizer.profile_hook_step(_of_torch).__code__


def _step_of(optimizer: Optimizer) -> Any:
    """Returns the function that is the class's step, without torch's wrapper for profilers and hooks."""
    step: Any = type(optimizer).step
    return step.__wrapped__ if getattr(step, "__code__", None) is HOOKED else step


class Closure:
    """Stands for the closure that Lightning passes to a step: returns the loss, whose gradients are already computed.

    Raises a CannotFuseError if a user-defined step evaluates the loss again, or after it has changed a parameter.
    """

    def __init__(self, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        self._loss, self._parameters = loss, parameters
        self._before: list[Any] | None = [*map(_mark, parameters)]

    def __call__(self) -> Tensor:
        before, self._before = self._before, None
        if before is None or not all(map(_has_mark, self._parameters, before)):
            raise CannotFuseError("the optimizer evaluates the loss again, or after changing a parameter")
        return self._loss


def _mark(tensor: Tensor) -> Any:
    """Returns a copy of a tensor or, while it is traced, its version counter."""
    return tensor._version if isinstance(tensor, FakeTensor) else tensor.detach().clone()


def _has_mark(tensor: Tensor, mark: Any) -> bool:
    return identical(tensor, mark) if isinstance(mark, Tensor) else bool(tensor._version == mark)


def plain_step(optimizer: Optimizer) -> Callable[..., Any] | None:
    """Returns the optimizer's step without torch's profiler and schedule wrappers; None if anything else wraps it."""
    own, step = vars(optimizer).get("step"), cast(Any, type(optimizer).step)
    of_a_schedule = hasattr(own, "_wrapped_by_lr_sched") and getattr(own, "__wrapped__", None) is step
    if has_step_hooks(optimizer) or (own is not None and not of_a_schedule):
        return None
    step = _step_of(optimizer)
    return lambda *closure: step(optimizer, *closure)


def state_of(optimizer: Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, dict[str, Tensor]]:
    """Returns the tensors in the optimizer's state, by parameter name and key."""
    state: dict[str, dict[str, Tensor]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found = optimizer.state.get(parameter, {})
            state[names[parameter]] = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    return state


def options_of(optimizer: Optimizer, names: Mapping[nn.Parameter, str]) -> list[Any]:
    """Returns what a compiled step depends on besides tensors: class, groups, options and plain state."""
    groups = [
        [[names[p] for p in group["params"]], describe({k: v for k, v in group.items() if k not in NOT_OPTIONS})]
        for group in optimizer.param_groups
    ]
    plain = [
        [
            (key, describe(value))
            for key, value in optimizer.state.get(parameter, {}).items()
            if not isinstance(value, Tensor)
        ]
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    own = {key: value for key, value in vars(optimizer).items() if key not in OF_EVERY_OPTIMIZER}
    own["defaults"] = {key: value for key, value in optimizer.defaults.items() if key not in NOT_OPTIONS}
    return [f"{type(optimizer).__module__}.{type(optimizer).__qualname__}", groups, plain, describe(own)]


NOT_OPTIONS = {"params", "lr", "initial_lr"}
OF_EVERY_OPTIMIZER = set(vars(torch.optim.SGD([torch.zeros(1)]))) - {"defaults"} | {"step", "_opt_called"}


def traced_step(
    optimizer: Optimizer,
    names: Mapping[nn.Parameter, str],
    tensors: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    state: Mapping[str, Mapping[str, Tensor]],
    rates: Sequence[Tensor],
    loss: Tensor,
) -> None:
    """Performs the optimizer's own step on other tensors, in place, as operations that can be traced.

    Args:
        optimizer: its class, options and plain state are used; it is not changed.
        names: the names of its parameters.
        tensors: the stand-ins for the parameters, by name.
        gradients: the gradients, by name; a parameter without one is skipped, as by the optimizer itself.
        state: the stand-in for the optimizer's state.
        rates: the learning rates of the parameter groups, float64 scalars.
        loss: returned to a step that calls its closure.

    Raises:
        CannotFuseError: the step changes a value that is not a tensor, or may change a tensor outside its state.
    """
    _refuse_tensors_outside_of_the_state(optimizer)
    twin = _twin(optimizer, names, tensors, state, rates)
    before = _plain_values(twin)
    try:
        for name in state:
            tensors[name].grad = gradients.get(name)
        _step(twin, loss, [*tensors.values()])
    finally:
        for tensor in tensors.values():
            tensor.grad = None
    if _plain_values(twin) != before:
        raise CannotFuseError(f"the step of {type(optimizer).__name__} changes values that are not tensors")
    for name, kept in state.items():
        for key, old in kept.items():
            new = twin.state[tensors[name]][key]
            if new is not old:
                old.copy_(new)


def _refuse_tensors_outside_of_the_state(optimizer: Optimizer) -> None:
    if is_torchs(optimizer):
        return
    inside = [item for values in (vars(optimizer), *optimizer.param_groups) for item in values.items()]
    for name, value in inside:
        known = name in NOT_OPTIONS | {"state", "param_groups"}
        if not known and any(isinstance(each, (Tensor, np.ndarray)) for each in held_in([value])):
            raise CannotFuseError(f"the optimizer keeps a tensor in {name}, outside its state")


def _twin(
    optimizer: Optimizer,
    names: Mapping[nn.Parameter, str],
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Mapping[str, Tensor]],
    rates: Sequence[Tensor],
) -> Any:
    """Returns an optimizer of the same class, options and plain state, with other parameters and state tensors."""
    twin: Any = object.__new__(type(optimizer))
    twin.__dict__.update({key: value for key, value in vars(optimizer).items() if key != "step"})
    twin.param_groups, twin.state = [], defaultdict(dict)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        other = {k: TENSORS_BY_OTHER_MEANS.get(k, v) for k, v in group.items()}
        if isinstance(optimizer, torch.optim.Adam):  # if capturable, it divides by the learning rate, which may be 0
            other["capturable"] = False
        twin.param_groups.append({**other, "lr": rate, "params": [tensors[names[p]] for p in group["params"]]})
        for parameter in group["params"]:
            name = names[parameter]
            kept = dict(optimizer.state.get(parameter, {}))
            for key, value in state[name].items():
                # Torch computes with step counts as Python floats, which are float64.
                kept[key] = value.double() if key == "step" and value.dim() == 0 else value
            if kept:
                twin.state[tensors[name]] = kept
    return twin


def _step(twin: Any, loss: Tensor, parameters: Sequence[Tensor]) -> None:
    step = _step_of(twin)
    flag = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True  # makes torch's optimizers keep their counters as tensors
    try:
        with torch.no_grad(), TensorScalars(is_torchs(twin)):
            step(twin) if is_torchs(twin) else step(twin, Closure(loss, parameters))
    finally:
        torch.compiler._is_compiling_flag = flag


def _plain_values(optimizer: Any) -> list[Any]:
    """Returns a description of an optimizer with only the names of its state tensors."""
    state = [
        [(key, "tensor" if isinstance(value, Tensor) else describe(value)) for key, value in kept.items()]
        for kept in optimizer.state.values()
    ]
    with _disable_current_modes(), torch._C.DisableTorchFunction():  # options may be tensors, which must not be traced
        groups = [
            describe({k: v for k, v in group.items() if k not in ("params", "lr")}) for group in optimizer.param_groups
        ]
        own = {key: value for key, value in vars(optimizer).items() if key not in OF_EVERY_OPTIMIZER}
        return [groups, state, describe(own)]
