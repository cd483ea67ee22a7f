"""Options of Lightning's trainer that have no meaning here, and what to use in their place."""

from typing import Any

from pytorch_lightning.strategies import DDPStrategy

from ngram_mlp.errors import UserError

__all__ = ["refuse_options_without_meaning"]


def refuse_options_without_meaning(trainer: Any) -> None:
    """Minibatches are drawn with replacement, in one endless epoch, by processes that average their gradients.

    Raises:
        UserError: an option that counts epochs, or that the engines do not honour, was given.
    """
    if trainer.max_steps < 0:
        raise UserError(f"--trainer.max_steps {trainer.max_steps}: give the number of updates, 0 or more")
    popen = isinstance(trainer.strategy, DDPStrategy) and trainer.strategy._start_method == "popen"
    if trainer.world_size > 1 and not popen:
        raise UserError("--trainer.strategy: several processes train by ddp alone; use ddp, or --trainer.devices 1")
    if trainer.fast_dev_run:  # Lightning derives the options below from it
        return
    refusals = {
        "max_epochs": (trainer.max_epochs not in (None, -1), "there are no epochs; use --trainer.max_steps"),
        "limit_train_batches": (trainer.limit_train_batches != 1.0, "use --trainer.max_steps"),
        "overfit_batches": (trainer.overfit_batches != 0, "use a small --data.corpus"),
        "val_check_interval": (
            not isinstance(trainer.val_check_interval, int),
            "give the number of updates between validations, a whole number",
        ),
        "precision": (trainer.precision == "16-mixed", "gradients are not rescaled; use 32-true or bf16-mixed"),
    }
    for option, (refused, remedy) in refusals.items():
        if refused:
            raise UserError(f"--trainer.{option} {getattr(trainer, option)}: {remedy}")
