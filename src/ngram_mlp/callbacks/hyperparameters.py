"""Logs a run's hyperparameters to every logger, and to TensorBoard's page that compares runs by them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.core.saving import save_hparams_to_yaml
from pytorch_lightning.loggers import TensorBoardLogger

from ngram_mlp.callbacks.harmless import harmless
from ngram_mlp.callbacks.recorder import Recorder

# Omitted from TensorBoard's page: the same for all runs on a corpus, or a duplicate, such as of `data/block_size`.
OMITTED = {"model/vocabulary", "model/block_size", "data/corpus", "data/data_dir", "data/sha256", "data/words"}


class Hyperparameters(Callback):
    """Logs the run's hyperparameters to every logger when training starts, instead of Lightning's own logging.

    TensorBoard gets all of them as `hparams.yaml`, and those that can differ between runs on its HParams page. A text
    describes the recipe.

    Args:
        values: the options that the run was started with, nested as in its configuration.
        name: the name of the recipe.
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
            logger.log_graph(pl_module)  # as Lightning does here
            logger.save()

    def _recipe(self, model: LightningModule) -> str:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        about = f"**{self._name}**: {type(model).__name__}, {parameters:,} parameters"
        return f"{about}\n\n```\n{yaml.safe_dump(self._values, sort_keys=False, allow_unicode=True)}```"

    def _show(self, logger: TensorBoardLogger, trainer: Trainer) -> None:
        logger.log_hyperparams(self._values, metrics={})  # without metrics it could log an `hp_metric` of -1
        if not trainer.is_global_zero:
            return
        folder, resumed = Path(logger.log_dir), trainer.ckpt_path
        writer = logger.experiment._get_file_writer()
        if resumed is None or folder.resolve() not in Path(resumed).resolve().parents:  # else already written
            for summary in _page(self._values):
                writer.add_summary(summary, trainer.global_step)
        # The logger itself does not overwrite an existing file.
        save_hparams_to_yaml(folder / logger.NAME_HPARAMS_FILE, logger.hparams)


def _page(values: dict[str, Any]) -> Any:
    """Returns the summaries of a run's values and of its end, from which TensorBoard builds its HParams page.

    Omits the summary of all runs, which every run would write again: the page then begins with the columns that differ.
    """
    from torch.utils.tensorboard.summary import hparams

    given = {key: value for key, value in _flattened(values) if value is not None and key not in OMITTED}
    shown = {key: value if isinstance(value, int | float | str) else str(value) for key, value in given.items()}
    return hparams(shown, {})[1:]  # type: ignore[no-untyped-call]


def _flattened(nested: dict[str, Any], parents: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values with the names under which Lightning logs them, such as `model/class`."""
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{parents}{key}/")
        else:
            yield f"{parents}{key}", value
