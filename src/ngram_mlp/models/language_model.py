"""The LightningModule that all variants share."""

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import SparseAdam
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from ngram_mlp.data import NGramDataModule
from ngram_mlp.errors import Diverged, UserError
from ngram_mlp.models.metrics import Losses, PredictionMetric
from ngram_mlp.releases import unknown_release
from ngram_mlp.runs.checkpoint import Parts, add_parts, parts_of, read_checkpoint
from ngram_mlp.training.counters import begin_counters, restore_counters
from ngram_mlp.training.engines import Before, EngineName, use_fastest_threads
from ngram_mlp.training.loop import choose_loop, trains_chunks
from ngram_mlp.training.processes import average, processes
from ngram_mlp.training.trainer import log_at, refuse_options_without_meaning, validates_at

WAITS_FOR_A_METRIC = "waits for a metric; choose a schedule of the update alone, like MultiStepLR or CosineAnnealingLR"


class LanguageModel(LightningModule):
    """Trains and evaluates a network that predicts the next character from the `block_size` characters before it.

    A variant is a subclass whose constructor calls this one and then assigns `network`, a module that maps contexts
    (B, block_size) in int64 to logits (B, len(characters)). Its constructor arguments are its hyperparameters: plain
    numbers, strings, lists, and dataclasses of them, which a checkpoint carries as dictionaries.

    It is an ordinary LightningModule, trained by automatic optimization. Where nobody wants to be called at every
    update, an engine performs the same updates in chunks, in the place of `training_step` (`training/loop.py`).

    Args:
        characters: the vocabulary; a character's id is its place in the string.
        block_size: the length of a context.
        optimizer: builds the optimizer from the parameters; by default that of the notebooks.
        lr_scheduler: builds the learning-rate schedule from the optimizer; it is stepped after every update.
        engine: `lightning` (ordinary Lightning, a minibatch a step), `eager` (plain PyTorch in chunks, the same bits),
            `fused` (compiled), or `auto`: fused where it works and pays, else eager, and `lightning` where a callback
            or an override wants to be called at every update.
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
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler", "engine"])
        # Plain dictionaries, so that a checkpoint names no class (promise 6).
        self.save_hyperparameters({k: asdict(v) if is_dataclass(type(v)) else v for k, v in self.hparams.items()})
        self.characters = characters
        self.block_size = block_size
        self.example_input_array = torch.zeros(1, block_size, dtype=torch.long)  # for summaries and graphs
        self.losses = Losses()
        self._make_optimizer = optimizer
        self._make_lr_scheduler = lr_scheduler
        self._metric = PredictionMetric(sync_on_compute=False)  # every process evaluates the whole split
        self._wanted_engine = engine
        self.engine_name: str | None = None  # of the engine that trains or trained this model
        self.threads: int | None = None  # with which it trains or trained
        self._before: Before | None = None  # how it was trained before an interruption
        self._parts: list[Tensor] = []  # losses of the minibatches that the present update accumulates
        self._last_batch_idx = -1
        self._ends = False  # whether it told the trainer to stop, as all updates are done

    def forward(self, contexts: Tensor) -> Tensor:
        """The logits (B, len(characters)) for contexts (B, block_size)."""
        logits: Tensor = self.network(contexts)
        return logits

    def configure_optimizers(self) -> Any:
        try:
            optimizer = self._make_optimizer(self.parameters())
        except (ValueError, NotImplementedError) as error:  # torch's own words name the argument and the value
            raise UserError(str(error) or "is abstract; choose another class", optimizer=None) from error
        if isinstance(optimizer, SparseAdam):
            raise UserError("needs sparse gradients, and these are dense; use Adam", optimizer="SparseAdam")
        try:
            scheduler = self._make_lr_scheduler(optimizer)
        except (ValueError, TypeError, NotImplementedError) as error:
            reason = str(error) or "it is abstract"
            raise UserError(f"cannot be made for an optimizer ({reason}); choose another", lr_scheduler=None) from error
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UserError(WAITS_FOR_A_METRIC, lr_scheduler="ReduceLROnPlateau")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def setup(self, stage: str) -> None:
        self._threads = torch.get_num_threads()
        if stage == "fit":
            refuse_options_without_meaning(self.trainer, self)

    def teardown(self, stage: str) -> None:
        torch.set_num_threads(self._threads)

    def on_fit_start(self) -> None:
        if self._ends:  # a callback such as BatchSizeFinder has trained before the first update
            self.trainer.should_stop = False
        if self.trainer.global_step == 0 and self._before is None:  # else they are those of the updates before it
            self.losses = Losses()
        choose_loop(self.trainer, self._wanted_engine, self._before, LanguageModel, NGramDataModule)
        self.threads = self._before.threads if self._before else None
        self._parts.clear()
        self._last_batch_idx, self._ends, self._before = -1, False, None

    def on_train_start(self) -> None:
        # A model handed over in evaluation mode would keep its batch-norm statistics frozen.
        self.network.train()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The mean cross-entropy of a minibatch: contexts (B, T), targets (B,)."""
        contexts, targets = batch
        if self._last_batch_idx < 0:
            self.engine_name = "lightning"
            self.threads = use_fastest_threads(self.network, contexts, targets, self.threads)
            if unknown_release() is None:
                begin_counters(self.trainer)
        loss = F.cross_entropy(self(contexts), targets)
        if batch_idx != self._last_batch_idx:  # optimizers such as LBFGS evaluate a minibatch several times
            self._last_batch_idx = batch_idx
            self._note(loss.detach())
        return loss

    def _note(self, loss: Tensor) -> None:
        """Records the loss of an update, once all of its minibatches have theirs."""
        self._parts.append(loss)
        if len(self._parts) == self.trainer.accumulate_grad_batches:
            mean = torch.stack(self._parts).mean()
            self._parts.clear()
            if processes() > 1:
                average([mean])
            self.record(mean[None], self.trainer.optimizers[0].param_groups[0]["lr"])

    def record(self, losses: Tensor, lr: float) -> None:
        """Keeps and logs the losses (K,) of the updates that end now, and the last one's learning rate.

        The trainer has not counted them yet. Raises Diverged where a loss is not finite.
        """
        trainer: Any = self.trainer
        if bad := (~losses.isfinite()).nonzero().flatten().tolist():
            what = f"{losses[bad[0]].item()} at update {trainer.global_step + bad[0]}"
            raise Diverged(f"the training loss is {what}; lower the optimizer's lr, or scale the initial weights down")
        self.losses.append(losses)
        loss = self.losses.mean_since_logged()
        self.log("train/loss", loss, prog_bar=True, logger=False)
        done, every = trainer.global_step + len(losses), trainer.log_every_n_steps
        last = done == trainer.max_steps
        if last and not validates_at(trainer, done):
            trainer.should_stop = self._ends = True  # told to stop, it validates
        if last or (every and done % every == 0):
            log_at(trainer, done, {"train/loss": loss, "train/lr": torch.tensor(lr)})
        if every and done % every == 0:
            self.losses.logged = len(self.losses)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if not trains_chunks(self.trainer):  # an engine steps the schedule itself, after each of its updates
            super().lr_scheduler_step(scheduler, metric)

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
        fits = self.trainer.state.fn == TrainerFn.FITTING
        self.log_dict(metrics, rank_zero_only=True, logger=not fits)
        if fits:
            log_at(self.trainer, self.trainer.global_step, metrics)

    def predict_step(self, batch: tuple[Tensor, Tensor] | Tensor, batch_idx: int) -> Tensor:
        """The probabilities (n, len(characters)) of the next character, for contexts (n, T) with or without targets."""
        contexts = batch if isinstance(batch, Tensor) else batch[0]
        probabilities: Tensor = self(contexts).softmax(dim=1)
        return probabilities

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> "LanguageModel":
        """The model of a checkpoint, saved by `train.py` or by `trainer.save_checkpoint`; nothing in the file is run.

        Called on `LanguageModel`, it takes the class of this package that the checkpoint names.

        Args:
            checkpoint_path: the file.
            map_location: the device that it goes to, by default the CPU.
            hparams_file: not taken, as the checkpoint has its hyperparameters.
            strict: whether the weights in the file have to be those of the model, by default they have.
            weights_only: without effect; a checkpoint is always read as data.
            **kwargs: constructor arguments that replace those in the checkpoint, or that it does not hold: optimizer,
                lr_scheduler, engine.
        """
        from ngram_mlp.models.loading import load_model  # here, as it knows the variants

        if hparams_file is not None:
            raise UserError("is not taken, as a checkpoint has its hyperparameters; leave it out", hparams_file=None)
        checkpoint = read_checkpoint(checkpoint_path)
        model = load_model(checkpoint, None if cls is LanguageModel else cls, strict is not False, **kwargs)
        return model.to(map_location or "cpu").train()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        parts = Parts(
            model=type(self).__name__,
            engine=self.engine_name,
            threads=self.threads,
            losses=self.losses.all,
            logged=self.losses.logged,
        )
        add_parts(checkpoint, parts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        parts = parts_of(checkpoint)
        self.engine_name, self.threads = parts["engine"], parts.get("threads")  # which 0.1 did not save
        self._before = Before(self.engine_name, self.threads) if self.engine_name else None
        self.losses = Losses(parts["losses"], parts["logged"])
        if self.trainer.state.fn == TrainerFn.FITTING and unknown_release() is None:
            restore_counters(self.trainer, checkpoint)
