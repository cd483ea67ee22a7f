"""What an update does beside the optimizer's step: accumulate, clip, and average the weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_


class MovingAverage:
    """The exponential moving average of Lightning's `EMAWeightAveraging`, which an engine updates at its own updates.

    Validation, checkpoints and the end of training stay the callback's affair. It averages after an update that it has
    not averaged after already, so at the end of a chunk it finds nothing left to do.
    """

    def __init__(self, callback: EMAWeightAveraging, module: nn.Module) -> None:
        model = callback._average_model
        assert model is not None
        assert model.avg_fn is not None
        self._callback = callback
        self._model = model
        self._module = module
        self._decay = float(model.avg_fn(torch.ones(()), torch.zeros(()), 1))
        self.network = model.module.get_submodule("network")  # whose parameters and buffers are the average
        self.of_buffers = model.use_buffers  # else they are those of the last averaged update

    def move(self, update: int) -> None:
        """Moves the average towards the weights as they are after this update, if that is due."""
        if self._callback.should_update(step_idx=update):
            self._model.update_parameters(self._module)
            self._callback._latest_update_step = update + 1

    def shares(self, first: int, updates: int) -> Tensor:
        """The share of the weights in the average that each of these updates makes of both, float32 (updates,)."""
        due = [self._callback.should_update(step_idx=update) for update in range(first, first + updates)]
        shares = torch.tensor(due) * (1 - self._decay)
        if self._model.n_averaged == 0 and any(due):
            shares[due.index(True)] = 1.0  # the average begins as a copy
        return shares

    def moved(self, first: int, shares: Tensor) -> None:
        """Tells the callback that these shares have moved the average."""
        due = shares.nonzero().flatten().tolist()
        self._model.n_averaged += len(due)
        if due:
            self._callback._latest_update_step = first + due[-1] + 1


@dataclass(frozen=True)
class UpdateRule:
    """What an update does beside the optimizer's step, as the arguments of Lightning's trainer ask for it."""

    minibatches: int = 1  # whose gradients are averaged in an update
    clip: float = 0.0  # the greatest norm of all gradients together, or absolute value of each; 0: not clipped
    clip_by: str = "norm"  # or `value`
    averages: tuple[MovingAverage, ...] = ()

    @classmethod
    def of(cls, trainer: Any) -> "UpdateRule":
        """What a trainer that is about to train asks for."""
        averages = [callback for callback in trainer.callbacks if isinstance(callback, EMAWeightAveraging)]
        return cls(
            trainer.accumulate_grad_batches,
            trainer.gradient_clip_val or 0.0,
            trainer.gradient_clip_algorithm or "norm",
            tuple(MovingAverage(callback, trainer.lightning_module) for callback in averages),
        )

    def clip_in_place(self, parameters: Sequence[nn.Parameter]) -> None:
        """Clips the gradients of parameters with the functions that Lightning calls."""
        if self.clip > 0:
            clip = clip_grad_norm_ if self.clip_by == "norm" else clip_grad_value_
            clip(parameters, self.clip)

    def clipped(self, gradients: list[Tensor]) -> list[Tensor]:
        """Clipped gradients, as a pure function: what `clip_in_place` computes, up to rounding."""
        if self.clip <= 0:
            return gradients
        if self.clip_by == "value":
            return [gradient.clamp(-self.clip, self.clip) for gradient in gradients]
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        factor = (self.clip / (norm + 1e-6)).clamp(max=1.0)
        return [gradient * factor for gradient in gradients]


PLAIN = UpdateRule()
