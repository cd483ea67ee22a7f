"""A run's hyperparameters, in every logger, and on TensorBoard's page that compares runs by them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.core.saving import save_hparams_to_yaml
from pytorch_lightning.loggers import TensorBoardLogger

from ngram_mlp.callbacks.inspection import harmless
from ngram_mlp.callbacks.recorder import Recorder

# On TensorBoard's page: what is the same for all runs on a corpus, or is there already, as `data/block_size` is.
OMITTED = {"model/vocabulary", "model/block_size", "data/corpus", "data/data_dir", "data/sha256", "data/words"}


class Hyperparameters(Callback):
    """Logs the run's hyperparameters to every logger when training starts, in place of Lightning's own logging of them.

    TensorBoard gets them all as `hparams.yaml`, and on its HParams page those that can differ between runs. A text
    tells which recipe the run has.

    Args:
        values: what the run was started with, nested as in its configuration.
        name: of the recipe.
    """

    def __init__(self, values: dict[str, Any], name: str) -> None:
        self._values = values
        self._name = name

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with harmless("Hyperparameters", trainer):
            self._log(trainer, pl_module)

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Recorder(trainer, trainer.global_step).text("run/recipe", self._recipe(pl_module))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                self._show(logger, trainer)
            else:
                logger.log_hyperparams(self._values)
            logger.log_graph(pl_module)  # Lightning does so on the same occasion
            logger.save()

    def _recipe(self, model: LightningModule) -> str:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        about = f"**{self._name}**: {type(model).__name__}, {parameters:,} parameters"
        return f"{about}\n\n```\n{yaml.safe_dump(self._values, sort_keys=False, allow_unicode=True)}```"

    def _show(self, logger: TensorBoardLogger, trainer: Trainer) -> None:
        logger.log_hyperparams(self._values, metrics={})  # without metrics it might log an `hp_metric` of -1
        if not trainer.is_global_zero:
            return
        folder, resumed = Path(logger.log_dir), trainer.ckpt_path
        writer = logger.experiment._get_file_writer()
        if resumed is None or folder.resolve() not in Path(resumed).resolve().parents:  # else they are there
            for summary in _page(self._values):
                writer.add_summary(summary, trainer.global_step)
        # The logger itself would leave a file alone that is there.
        save_hparams_to_yaml(folder / logger.NAME_HPARAMS_FILE, logger.hparams)


def _page(values: dict[str, Any]) -> Any:
    """The summaries of a run's values and of its end, from which TensorBoard's HParams page is made.

    Without one of all runs, which each would write anew: the page then begins with the columns in which runs differ.
    """
    from torch.utils.tensorboard.summary import hparams

    given = {key: value for key, value in _flattened(values) if value is not None and key not in OMITTED}
    shown = {key: value if isinstance(value, int | float | str) else str(value) for key, value in given.items()}
    return hparams(shown, {})[1:]  # type: ignore[no-untyped-call]


def _flattened(nested: dict[str, Any], parents: str = "") -> Iterator[tuple[str, Any]]:
    """The values with the names under which Lightning logs them: `model/class`."""
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{parents}{key}/")
        else:
            yield f"{parents}{key}", value
