"""The LightningModule that all variants share."""

from dataclasses import asdict, is_dataclass
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ngram_mlp.calibration import batch_norms
from ngram_mlp.engines import Engine, EngineName, choose_engine
from ngram_mlp.engines.schedule import upcoming_rates
from ngram_mlp.errors import UserError
from ngram_mlp.evaluation import PredictionMetric
from ngram_mlp.models import counters
from ngram_mlp.models.trainer_options import refuse_options_without_meaning

__all__ = ["LanguageModel"]


class LanguageModel(LightningModule):
    """Trains and evaluates a network that predicts the next character from the `block_size` characters before it.

    A variant is a subclass whose constructor calls this one and then assigns `network`, a module that maps contexts
    (B, block_size) in int64 to logits (B, len(characters)). Its constructor arguments are its hyperparameters: plain
    numbers, strings, lists, and dataclasses of them, which a checkpoint carries as dictionaries.

    The trainer hands over blocks of K minibatches; everything that it counts and logs counts updates.

    Args:
        characters: the vocabulary; a character's id is its place in the string.
        block_size: the length of a context.
        optimizer: builds the optimizer from the parameters.
        lr_scheduler: builds the learning-rate schedule from the optimizer; it is stepped after every update.
        engine: `eager` (plain PyTorch), `fused` (compiled), or `auto`: fused where it works and pays, else eager.

    Raises:
        UserError: while training, if a loss is not finite, with the update's number.
    """

    network: nn.Module

    def __init__(
        self,
        characters: str,
        block_size: int,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable,
        engine: EngineName = "auto",
    ) -> None:
        super().__init__()
        # The optimizer and its schedule are functions here; config.yaml tells them by name. The engine may change.
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler", "engine"], logger=False)
        # Plain dictionaries, so that a checkpoint names no class (promise 6).
        self.hparams.update({k: asdict(v) for k, v in self.hparams.items() if is_dataclass(type(v))})
        self.automatic_optimization = False
        self.characters = characters
        self.block_size = block_size
        self._make_optimizer = optimizer
        self._make_lr_scheduler = lr_scheduler
        self._metric = PredictionMetric(sync_on_compute=False)  # every process evaluates the whole split
        self._wanted_engine = engine
        self._engine: Engine | None = None
        self._engine_before: str | None = None
        # Set where a run goes on with another learning rate or schedule than its checkpoint has.
        self.renew_schedule = False
        # The losses since the last logged mean, which so does not depend on how the updates are cut into blocks.
        self._unlogged = torch.empty(0)

    def forward(self, contexts: Tensor) -> Tensor:
        """The logits (B, len(characters)) for contexts (B, block_size)."""
        logits: Tensor = self.network(contexts)
        return logits

    def configure_optimizers(self) -> Any:
        try:
            optimizer = self._make_optimizer(self.parameters())
        except ValueError as error:  # torch's own words name the argument and the value
            raise UserError(f"--model.optimizer: {error}") from error
        scheduler = self._make_lr_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UserError(
                "--model.lr_scheduler ReduceLROnPlateau waits for a metric, but the schedule is stepped every update; "
                "choose one that depends on the update alone, like MultiStepLR or CosineAnnealingLR"
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def setup(self, stage: str) -> None:
        self._threads_before = torch.get_num_threads()
        if stage == "fit":
            refuse_options_without_meaning(self.trainer)

    def teardown(self, stage: str) -> None:
        torch.set_num_threads(self._threads_before)

    def on_train_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if getattr(data, "batch_size", None) == 1 and batch_norms(self.network):
            raise UserError(
                "--data.batch_size 1: batch norm has no standard deviation over a minibatch of 1 example; "
                "give at least 2, or train without batch norm"
            )
        # A model handed over in evaluation mode would keep its batch-norm statistics frozen.
        self.network.train()
        self._engine = None
        wrapper = self.trainer.strategy.model
        if isinstance(wrapper, DistributedDataParallel):
            # It expects one backward pass for each call; the engine has one for each update, and averages itself.
            wrapper.require_backward_grad_sync = False
        self._check_optimizer_state()

    def training_step(self, block: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Performs the updates of a block; returns their losses, shape (K,), for the callbacks."""
        if self._engine is None:
            self._engine = self._choose_engine(block)
            counters.begin(self.trainer)
        losses = self._engine.run(*block)
        first = self.trainer.global_step
        finite = losses.isfinite()
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            raise UserError(
                f"the training loss is {losses[bad].item()} at update {first + bad}; "
                "lower --model.optimizer.lr, or scale the initial weights down"
            )
        counters.advance(self.trainer, len(losses))
        self._unlogged = torch.cat([self._unlogged, losses.float().cpu()])
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log_dict({"train/loss": self._unlogged.mean(), "lr": lr, **self._axis()})
        interval: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if interval and self.trainer.global_step % interval == 0:
            self._unlogged = torch.empty(0)
        return {"losses": losses}

    def on_validation_start(self) -> None:
        # The engine's threads suit small minibatches; a chunk of a split is large.
        self._engine_threads = torch.get_num_threads()
        torch.set_num_threads(self._threads_before)

    def on_validation_end(self) -> None:
        torch.set_num_threads(self._engine_threads)

    def on_validation_epoch_start(self) -> None:
        self._metric.reset()

    def on_test_epoch_start(self) -> None:
        self._metric.reset()

    def validation_step(self, chunk: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._metric.update(self(chunk[0]), chunk[1])

    def test_step(self, chunk: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._metric.update(self(chunk[0]), chunk[1])

    def on_validation_epoch_end(self) -> None:
        self._log_metric("val")

    def on_test_epoch_end(self) -> None:
        self._log_metric("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["model"] = type(self).__name__
        checkpoint["engine"] = self.engine_name
        checkpoint["unlogged_losses"] = self._unlogged

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._engine_before = checkpoint.get("engine")
        if self.renew_schedule:
            self._write_new_rates(checkpoint)
        counters.restore(self.trainer, checkpoint)
        self._unlogged = checkpoint["unlogged_losses"]

    @property
    def engine_name(self) -> str | None:
        """The engine that trains or trained this model, None before training."""
        return self._engine.name if self._engine else self._engine_before

    def _check_optimizer_state(self) -> None:
        """Raises a UserError where a checkpoint's optimizer state is not that of these parameters."""
        shapes = {"momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
        for parameter, state in self.trainer.optimizers[0].state.items():
            for key, value in state.items():
                expected = parameter.shape if key in shapes else ()
                if key in {*shapes, "step"} and value is not None and getattr(value, "shape", None) != expected:
                    raise UserError(
                        f"--ckpt_path: the optimizer's {key} in the checkpoint is not of the shape {expected}"
                    )

    def _write_new_rates(self, checkpoint: dict[str, Any]) -> None:
        """Puts into a checkpoint the learning rates of this configuration, as they are at the checkpoint's update."""
        configured = self.configure_optimizers()
        optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        if updates := checkpoint["global_step"]:
            upcoming_rates(optimizer, scheduler, updates)
        for saved, new in zip(checkpoint["optimizer_states"][0]["param_groups"], optimizer.param_groups, strict=True):
            saved |= {key: new[key] for key in ("lr", "initial_lr")}
        checkpoint["lr_schedulers"] = [scheduler.state_dict()]

    def _choose_engine(self, block: tuple[Tensor, Tensor]) -> Engine:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        scheduler: Any = self.lr_schedulers()
        left = self.trainer.max_steps - self.trainer.global_step
        return choose_engine(
            self._wanted_engine, self.network, optimizer, scheduler, block, left, before=self._engine_before
        )

    def _log_metric(self, split: str) -> None:
        metrics = {f"{split}/{name}": value for name, value in self._metric.compute().items()}
        self.log_dict({**metrics, **self._axis()}, rank_zero_only=True)

    def _axis(self) -> dict[str, float]:
        """Lightning puts what is logged beside a metric named `step` at that place of the axis: updates done."""
        return {"step": float(self.trainer.global_step)}
