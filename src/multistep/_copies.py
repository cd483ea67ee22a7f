"""Copies a module and its optimizer for trials."""

import copy
import io
import types
import weakref
from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from multistep._errors import CannotFuseError
from multistep._guards import RefusingTrainer, RefusingValue
from multistep._origins import contents_of, is_foreign, is_own_object
from multistep._reach import held_in

BOUND = (types.BuiltinMethodType, types.MethodWrapperType)  # bound methods of C objects


def leaving_graphs(module: nn.Module) -> dict[int, Any]:
    """Returns the memo with which `copy.deepcopy` detaches tensors that have a graph, such as a metric's last value."""
    memo: dict[int, Any] = {}
    for child in module.modules():
        for value in child.__dict__.values():
            for tensor in [value, *contents_of(value)]:
                if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                    memo[id(tensor)] = tensor.detach().clone()
    return memo


def copied(module: nn.Module, optimizer: Optimizer) -> tuple[Any, Any, set[int]]:
    """Returns copies of a module and its optimizer, and the identities of all copied objects.

    In the copies, objects that refuse any use replace datasets and the trainer.

    Raises a CannotFuseError if a copied attribute is still shared with the module.
    """
    memo = leaving_graphs(module)
    trainer = getattr(module, "_trainer", None)
    if trainer is not None:
        memo[id(trainer)] = trainer
    for value in held_in((value for child in module.modules() for value in vars(child).values()), {id(trainer)}):
        if isinstance(value, (Dataset, DataLoader)):  # large, and a step must not use it
            memo[id(value)] = RefusingValue("training_step uses a dataset or loader stored in the module")
        ends = hasattr(type(value), "__del__") and not isinstance(value, io.IOBase)  # a file cannot be copied
        if ends and is_foreign(type(value).__module__):
            raise CannotFuseError(f"the module holds a {type(value).__name__}, whose copies would run its __del__")
    other = copy.deepcopy(module, memo)
    for child, twin in zip(module.modules(), other.modules(), strict=True):
        for key, value in child.__dict__.items():
            owner = getattr(value, "__self__", None) if isinstance(value, BOUND) else None
            bound = owner is not None and not isinstance(owner, (types.ModuleType, type))  # deepcopy does not rebind it
            if bound or isinstance(value, weakref.ref) or (is_own_object(value) and twin.__dict__.get(key) is value):
                raise CannotFuseError(f"self.{key} is shared by the module and its copies")
        if isinstance(twin, LightningModule):
            twin.__dict__["_trainer"] = RefusingTrainer()
    attributes = {key: value for key, value in vars(optimizer).items() if key != "step"}
    stepper = object.__new__(type(optimizer))
    stepper.__dict__.update(copy.deepcopy(attributes, memo))  # torch's own copy drops the attributes of subclasses
    return other, stepper, {id(stepper), *map(id, memo.values())}
