"""The LightningModule that all variants share."""

from dataclasses import asdict, is_dataclass
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from ngram_mlp.errors import UserError
from ngram_mlp.models.metrics import Losses, PredictionMetric
from ngram_mlp.runs.checkpoint import Parts, add_parts, parts_of
from ngram_mlp.training import trainer as lightning
from ngram_mlp.training.engines import Engine, EngineName, choose_engine


class LanguageModel(LightningModule):
    """Trains and evaluates a network that predicts the next character from the `block_size` characters before it.

    A variant is a subclass whose constructor calls this one and then assigns `network`, a module that maps contexts
    (B, block_size) in int64 to logits (B, len(characters)). Its constructor arguments are its hyperparameters: plain
    numbers, strings, lists, and dataclasses of them, which a checkpoint carries as dictionaries.

    The trainer hands over chunks of K minibatches; everything that it counts and logs counts updates.

    Args:
        characters: the vocabulary; a character's id is its place in the string.
        block_size: the length of a context.
        optimizer: builds the optimizer from the parameters; by default that of the notebooks.
        lr_scheduler: builds the learning-rate schedule from the optimizer; it is stepped after every update.
        engine: `eager` (plain PyTorch), `fused` (compiled), or `auto`: fused where it works and pays, else eager.
    """

    network: nn.Module

    def __init__(
        self,
        characters: str,
        block_size: int,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        lr_scheduler: LRSchedulerCallable = lambda optimizer: MultiStepLR(optimizer, milestones=[100_000], gamma=0.1),
        engine: EngineName = "auto",
    ) -> None:
        super().__init__()
        # Optimizer and schedule are functions here, whose classes config.yaml names. The engine may change.
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler", "engine"], logger=False)
        # Plain dictionaries, so that a checkpoint names no class (promise 6).
        self.hparams.update({k: asdict(v) for k, v in self.hparams.items() if is_dataclass(type(v))})
        self.automatic_optimization = False
        self.characters = characters
        self.block_size = block_size
        self.losses = Losses()
        self._make_optimizer = optimizer
        self._make_lr_scheduler = lr_scheduler
        self._metric = PredictionMetric(sync_on_compute=False)  # every process evaluates the whole split
        self._wanted_engine = engine
        self._engine: Engine | None = None
        self._engine_before: str | None = None

    def forward(self, contexts: Tensor) -> Tensor:
        """The logits (B, len(characters)) for contexts (B, block_size)."""
        logits: Tensor = self.network(contexts)
        return logits

    @property
    def engine_name(self) -> str | None:
        """The engine that trains or trained this model; None before training."""
        return self._engine.name if self._engine else self._engine_before

    def configure_optimizers(self) -> Any:
        try:
            optimizer = self._make_optimizer(self.parameters())
        except ValueError as error:  # torch's own words name the argument and the value
            raise UserError(str(error), optimizer=None) from error
        scheduler = self._make_lr_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            remedy = "waits for a metric; choose a schedule of the update alone, like MultiStepLR or CosineAnnealingLR"
            raise UserError(remedy, lr_scheduler="ReduceLROnPlateau")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def setup(self, stage: str) -> None:
        self._threads = torch.get_num_threads()
        if stage == "fit":
            lightning.refuse_options_without_meaning(self.trainer)

    def teardown(self, stage: str) -> None:
        torch.set_num_threads(self._threads)

    def on_train_start(self) -> None:
        # A model handed over in evaluation mode would keep its batch-norm statistics frozen.
        self.network.train()
        self._engine = None
        lightning.leave_gradients_to_the_engine(self.trainer)

    def training_step(self, chunk: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Performs the updates of a chunk, and returns their losses (K,); a UserError where one is not finite."""
        if self._engine is None:
            self._engine = self._choose_engine(chunk)
            lightning.begin_counters(self.trainer)
        losses = self._engine.run(*chunk)
        if bad := (~losses.isfinite()).nonzero().flatten().tolist():
            what = f"{losses[bad[0]].item()} at update {self.trainer.global_step + bad[0]}"
            raise UserError(f"the training loss is {what}; lower the optimizer's lr, or scale the initial weights down")
        lightning.advance_counters(self.trainer, len(losses))
        self.losses.append(losses)
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log_dict({"train/loss": self.losses.mean_since_logged(), "lr": lr, **self._axis()})
        interval: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if interval and self.trainer.global_step % interval == 0:
            self.losses.logged = len(self.losses)
        return {"losses": losses}

    def on_validation_start(self) -> None:
        # The threads of the engine suit small minibatches; the batches of a split are large.
        self._engine_threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)

    def on_validation_end(self) -> None:
        torch.set_num_threads(self._engine_threads)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._metric.update(self(batch[0]), batch[1])

    def on_validation_epoch_start(self) -> None:
        self._metric.reset()

    def on_validation_epoch_end(self) -> None:
        split = "test" if self.trainer.testing else "val"
        metrics = {f"{split}/{name}": value for name, value in self._metric.compute().items()}
        self.log_dict({**metrics, **self._axis()}, rank_zero_only=True)

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        name, losses = type(self).__name__, self.losses
        add_parts(checkpoint, Parts(model=name, engine=self.engine_name, losses=losses.all, logged=losses.logged))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        parts = parts_of(checkpoint)
        self._engine_before = parts["engine"]
        self.losses = Losses(parts["losses"], parts["logged"])
        lightning.restore_counters(self.trainer, checkpoint)

    def _choose_engine(self, chunk: tuple[Tensor, Tensor]) -> Engine:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        scheduler: Any = self.lr_schedulers()
        left, before = self.trainer.max_steps - self.trainer.global_step, self._engine_before
        return choose_engine(self._wanted_engine, self.network, optimizer, scheduler, chunk, left, before)

    def _axis(self) -> dict[str, float]:
        """The place on the axis of what is logged, updates done: Lightning takes it from a metric named `step`."""
        return {"step": float(self.trainer.global_step)}
