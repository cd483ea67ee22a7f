"""Defines the LightningModule that all variants share."""

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer, SparseAdam
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, MultiStepLR, ReduceLROnPlateau

from ngram_mlp.data.tokenizer import Vocabulary
from ngram_mlp.models.loading import load_model
from ngram_mlp.models.metrics import TRAIN_LOSS, VAL_LOSS, PredictionMetric, evaluation_mode
from ngram_mlp.models.sampling import sample_one_by_one
from runlab import Parts, UserError, add_parts, read_checkpoint, require_at_least, updates_of

if TYPE_CHECKING:
    from typing_extensions import Self


class LanguageModel(LightningModule):
    """Trains and evaluates a network that predicts the next token from the `block_size` tokens before it.

    A variant is a subclass whose constructor calls this one and then assigns `network`, a module that maps contexts
    (B, block_size) in int64 to logits (B, len(vocabulary)). Its constructor arguments are its hyperparameters: plain
    numbers, strings, lists, and dataclasses of them, which a checkpoint stores as dictionaries.

    Args:
        vocabulary: the tokens in the order of their ids, as in `Tokenizer`: a string of characters, or a list.
        block_size: the length of a context.
        optimizer: builds the optimizer from the parameters; by default the notebooks' SGD.
        lr_scheduler: builds the learning-rate schedule from the optimizer. It steps after every update; a
            ReduceLROnPlateau after every epoch, by `val/loss` unless it names another metric. None: a constant rate.
    """

    network: nn.Module
    # Constructor arguments that a checkpoint does not keep; config.yaml names the classes of optimizer and schedule.
    not_hyperparameters: ClassVar[tuple[str, ...]] = ("optimizer", "lr_scheduler")

    def __init__(
        self,
        vocabulary: Vocabulary,
        block_size: int,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        lr_scheduler: LRSchedulerCallable = lambda optimizer: MultiStepLR(optimizer, milestones=[100_000], gamma=0.1),
    ) -> None:
        super().__init__()
        require_at_least(1, block_size=block_size)
        if not (isinstance(vocabulary, (str, list)) and all(isinstance(token, str) for token in vocabulary)) or (
            not vocabulary or len({*vocabulary}) < len(vocabulary)
        ):
            raise UserError("give a string or list with every token once, such as data.vocabulary", vocabulary=None)
        _require_function("lambda parameters: AdamW(parameters, lr=0.001)", optimizer=optimizer)
        # Typed `| None`, the schedule would have no default in `--help` and config.yaml.
        lr_scheduler = constant_rate if lr_scheduler is None else lr_scheduler
        _require_function("lambda optimizer: StepLR(optimizer, 1_000)", lr_scheduler=lr_scheduler)
        self.save_hyperparameters(ignore=self.not_hyperparameters)
        # Plain dictionaries, so that a checkpoint names no class (promise 6).
        self.save_hyperparameters({k: asdict(v) if is_dataclass(type(v)) else v for k, v in self.hparams.items()})
        self.vocabulary = vocabulary
        self.block_size = block_size
        self.example_input_array = torch.zeros(1, block_size, dtype=torch.long)  # for summaries and graphs
        self._make_optimizer = optimizer
        self._make_lr_scheduler = lr_scheduler
        self._metric = PredictionMetric(sync_on_compute=False)  # every process evaluates the whole split

    def forward(self, contexts: Tensor) -> Tensor:
        """Returns the logits (B, len(vocabulary)) for contexts (B, block_size)."""
        logits: Tensor = self.network(contexts.long())  # also those of a split, which stores the narrowest type
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the mean cross-entropy in nats of a minibatch: contexts (B, T), targets (B,)."""
        contexts, targets = batch
        loss = F.cross_entropy(self(contexts), targets)
        self.log(TRAIN_LOSS, loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._metric.update(self(batch[0]), batch[1])

    def on_validation_epoch_start(self) -> None:
        self._metric.reset()

    def on_validation_epoch_end(self) -> None:
        split = "test" if self.trainer.testing else "val"
        self.log_dict({f"{split}/{name}": value for name, value in self._metric.compute().items()})

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: tuple[Tensor, Tensor] | Tensor, batch_idx: int) -> Tensor:
        """Returns the probabilities (n, len(vocabulary)) of the token after each context (n, T); ignores targets."""
        contexts = batch if isinstance(batch, Tensor) else batch[0]
        probabilities: Tensor = self(contexts).softmax(dim=1)
        return probabilities

    def sample(self, num: int = 10, seed: int = 0, prompt: str = "", temperature: float = 1.0) -> list[str]:
        """Returns `num` samples that begin with `prompt`, drawn as in the notebooks from a generator with this seed.

        The temperature divides the logits; below 1, probable tokens become more probable.
        """
        generator = torch.Generator().manual_seed(seed)
        with evaluation_mode(self.network):
            return [word for word, _ in sample_one_by_one(self, num, generator, prompt, temperature)]

    def configure_optimizers(self) -> Any:
        try:
            optimizer = self._make_optimizer(self.parameters())
        except (ValueError, NotImplementedError) as error:  # torch's message names the argument and the value
            raise UserError(str(error) or "is abstract; choose another class", optimizer=None) from error
        if isinstance(optimizer, SparseAdam):
            raise UserError("needs sparse gradients, and these are dense; use Adam", optimizer="SparseAdam")
        try:
            scheduler = self._make_lr_scheduler(optimizer)
        except (ValueError, TypeError, NotImplementedError) as error:
            reason = f"cannot be built for this optimizer ({str(error) or 'it is abstract'}); choose another"
            raise UserError(reason, lr_scheduler=None) from error
        self._refuse_too_short(scheduler)
        configured: dict[str, Any] = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):  # it has no metric before the first validation
            monitor = getattr(scheduler, "monitor", VAL_LOSS)
            configured |= {"interval": "epoch", "monitor": monitor, "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": configured}

    def _refuse_too_short(self, scheduler: Any) -> None:
        """Raises a UserError if the schedule would raise an exception before the run's last update."""
        steps = getattr(scheduler, "total_steps", None)
        if isinstance(steps, int) and self._trainer and steps < (updates := updates_of(self._trainer)):
            name = f"{type(scheduler).__name__} with total_steps {steps}"
            raise UserError(f"ends before the run's {updates} updates; give {updates}", lr_scheduler=name)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state without the default optimizer and schedule, which are lambdas that pickle rejects."""
        state: dict[str, Any] = super().__getstate__()
        defaults = self._defaults()
        return {key: value for key, value in state.items() if value is not defaults.get(key, state)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(self._defaults() | state)  # type: ignore[no-untyped-call]

    @staticmethod
    def _defaults() -> dict[str, Any]:
        optimizer, lr_scheduler = LanguageModel.__init__.__defaults__  # type: ignore[misc]
        return {"_make_optimizer": optimizer, "_make_lr_scheduler": lr_scheduler}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        add_parts(checkpoint, Parts(model=type(self).__name__))

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> "Self":
        """Returns the model of a checkpoint from `train.py` or `trainer.save_checkpoint`; runs no code from it.

        If called on `LanguageModel`, it uses the class of this package that the checkpoint names.

        Args:
            checkpoint_path: the file.
            map_location: the device of the model, by default the CPU.
            hparams_file: not supported, because the checkpoint has its hyperparameters.
            strict: whether the weights must match the model exactly, as by default.
            weights_only: without effect; a checkpoint is always read as data.
            **kwargs: constructor arguments that replace those in the checkpoint, or that it lacks: optimizer,
                lr_scheduler.

        Raises:
            UserError: the file is not a checkpoint of this package, or does not fit the class.
        """
        if hparams_file is not None:
            reason = "is not supported, because the checkpoint has its own hyperparameters; remove this option"
            raise UserError(reason, hparams_file=None)
        checkpoint = read_checkpoint(checkpoint_path)
        model = load_model(checkpoint, cls, strict is not False, **kwargs)
        return model.to(map_location or "cpu").train()


def constant_rate(optimizer: Optimizer) -> LRScheduler:
    """Returns a schedule that keeps the learning rate constant."""
    return ConstantLR(optimizer, factor=1.0)


def _require_function(example: str, **argument: Any) -> None:
    if not all(map(callable, argument.values())):
        raise UserError(f"give a function, such as {example}", **argument)
