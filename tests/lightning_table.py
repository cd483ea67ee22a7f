"""What docs/lightning.md lists, found out by training: `python -m tests.lightning_table` writes the tables anew.

The names come from the libraries; a name without a case here makes the tests fail.
"""

import inspect
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer, callbacks, loggers
from torch.optim import Optimizer, lr_scheduler

from multistep import EngineUnavailableError, MultiStep
from ngram_mlp import MLP, NGramDataModule
from ngram_mlp.callbacks import media_loggers
from runlab import UserError

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "lightning.md"
KINDS = ("callbacks", "loggers", "options", "optimizers", "schedules")
UPDATES = 12
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


class Writer(callbacks.BasePredictionWriter):
    """The least that Lightning asks of one."""


class Finetuning(callbacks.BaseFinetuning):
    """Freezes the embedding until the first epoch begins."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.network.embedding)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer) -> None:
        self.unfreeze_and_add_param_group(pl_module.network.embedding, optimizer)


# How each callback is made, and what is said about it.
CALLBACKS: dict[str, tuple[Callable[[], Any], str]] = {
    "BackboneFinetuning": (callbacks.BackboneFinetuning, "works where a model has a `backbone`"),
    "BaseFinetuning": (Finetuning, "acts before the first update"),
    "BasePredictionWriter": (lambda: Writer("batch"), "of `trainer.predict`"),
    "BatchSizeFinder": (lambda: callbacks.BatchSizeFinder(max_trials=2), "changes `data.batch_size` before training"),
    "Callback": (callbacks.Callback, "`--trainer.callbacks+=my_package.Norms`"),
    "Checkpoint": (callbacks.Checkpoint, "the base of callbacks that save"),
    "DeviceStatsMonitor": (callbacks.DeviceStatsMonitor, "called around every logged update"),
    "EarlyStopping": (lambda: callbacks.EarlyStopping("val/loss"), "called after every validation"),
    "GradientAccumulationScheduler": (lambda: callbacks.GradientAccumulationScheduler({0: 2}), ""),
    "LambdaCallback": (
        lambda: callbacks.LambdaCallback(on_train_batch_end=lambda *_: None),
        "as here, with a batch hook; in chunks without one",
    ),
    "LearningRateFinder": (callbacks.LearningRateFinder, "works where a model has an `lr`"),
    "LearningRateMonitor": (callbacks.LearningRateMonitor, "called before every logged update"),
    "ModelCheckpoint": (
        lambda: callbacks.ModelCheckpoint(every_n_train_steps=5),
        "called after every n updates; update by update with `save_on_exception=True`",
    ),
    "ModelPruning": (lambda: callbacks.ModelPruning("l1_unstructured", amount=0.5), "replaces parameters"),
    "ModelSummary": (callbacks.ModelSummary, ""),
    "OnExceptionCheckpoint": (
        lambda: callbacks.OnExceptionCheckpoint("."),
        "runs of `train.py` are saved on exceptions without it",
    ),
    "ProgressBar": (callbacks.ProgressBar, "takes the place of the bar of `train.py`"),
    "RichModelSummary": (callbacks.RichModelSummary, ""),
    "RichProgressBar": (callbacks.RichProgressBar, "refreshed every 1,000 updates or more"),
    "SpikeDetection": (callbacks.SpikeDetection, ""),
    "StochasticWeightAveraging": (lambda: callbacks.StochasticWeightAveraging(0.01), ""),
    "TQDMProgressBar": (callbacks.TQDMProgressBar, "refreshed every 1,000 updates or more"),
    "ThroughputMonitor": (lambda: callbacks.ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0])), ""),
    "Timer": (lambda: callbacks.Timer(timedelta(minutes=5)), "stops at the end of a chunk"),
    "WeightAveraging": (callbacks.WeightAveraging, "`EMAWeightAveraging` is averaged by the engines"),
    "EMAWeightAveraging": (callbacks.EMAWeightAveraging, "averaged by the engines, after their own updates"),
}

# A value of each of the trainer's options that is not its default, and what is said about it.
OPTIONS: dict[str, tuple[Any, str]] = {
    "accelerator": ("cpu", "`auto` finds cuda, mps or cpu"),
    "strategy": ("ddp", "one device, or `ddp`"),
    "devices": (1, ""),
    "num_nodes": (1, ""),
    "precision": ("bf16-mixed", ""),
    "logger": (True, ""),
    "callbacks": ([callbacks.Callback()], "see above"),
    "fast_dev_run": (3, ""),
    "max_epochs": (2, ""),
    "min_epochs": (2, ""),
    "max_steps": (7, "exact; `train.py` validates after the last update, whatever the interval"),
    "min_steps": (5, ""),
    "max_time": ("00:01:00:00", ""),
    "limit_train_batches": (5, ""),
    "limit_val_batches": (1, ""),
    "limit_test_batches": (1, ""),
    "limit_predict_batches": (1, ""),
    "overfit_batches": (2, "the first minibatches of the training split"),
    "val_check_interval": (5, "a number of minibatches, a part of an epoch, or a time"),
    "check_val_every_n_epoch": (None, "`val_check_interval` counts over all epochs then"),
    "num_sanity_val_steps": (0, ""),
    "log_every_n_steps": (3, ""),
    "enable_checkpointing": (True, "of `train.py`: its own checkpoints, with which runs are resumed"),
    "enable_progress_bar": (True, ""),
    "enable_model_summary": (True, ""),
    "accumulate_grad_batches": (3, "by all engines; an update is one step of the optimizer"),
    "gradient_clip_val": (0.5, "by all engines"),
    "gradient_clip_algorithm": ("value", "by all engines"),
    "deterministic": (True, ""),
    "benchmark": (True, ""),
    "inference_mode": (False, ""),
    "use_distributed_sampler": (False, "processes share each minibatch, without a sampler"),
    "profiler": ("simple", "times what the engine does, in chunks; `--engine lightning` has every hook"),
    "detect_anomaly": (True, "not by `fused`"),
    "barebones": (True, "in Python; `train.py` refuses it, since it logs, shows and saves"),
    "plugins": ([], ""),
    "sync_batchnorm": (True, "the manual batch norm has the statistics of all processes in any case"),
    "reload_dataloaders_every_n_epochs": (1, ""),
    "default_root_dir": (".", ""),
    "enable_autolog_hparams": (False, ""),
    "model_registry": (None, ""),
}

OPTIMIZERS: dict[str, dict[str, Any]] = {"LBFGS": {"lr": 0.1}}
NOTES_OF_OPTIMIZERS = {"LBFGS": "evaluates a minibatch several times in an update"}
SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "ChainedScheduler": lambda optimizer: lr_scheduler.ChainedScheduler([_step(optimizer), _step(optimizer)]),
    "ConstantLR": lr_scheduler.ConstantLR,
    "CosineAnnealingLR": partial(lr_scheduler.CosineAnnealingLR, T_max=10),
    "CosineAnnealingWarmRestarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=4),
    "CyclicLR": partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=4, cycle_momentum=False),
    "ExponentialLR": partial(lr_scheduler.ExponentialLR, gamma=0.9),
    "LambdaLR": partial(lr_scheduler.LambdaLR, lr_lambda=lambda update: 0.9**update),
    "LinearLR": lr_scheduler.LinearLR,
    "MultiStepLR": partial(lr_scheduler.MultiStepLR, milestones=[5]),
    "MultiplicativeLR": partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda update: 0.9),
    "OneCycleLR": partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=20),
    "PolynomialLR": partial(lr_scheduler.PolynomialLR, total_iters=10),
    "ReduceLROnPlateau": lr_scheduler.ReduceLROnPlateau,
    "SequentialLR": lambda optimizer: lr_scheduler.SequentialLR(optimizer, [_step(optimizer), _step(optimizer)], [6]),
    "StepLR": partial(lr_scheduler.StepLR, step_size=5),
}
NOTES_OF_SCHEDULES = {
    "ChainedScheduler": "in Python, as it takes other schedules",
    "CyclicLR": "not by `fused` if it cycles the momentum",
    "LambdaLR": "in Python, as it takes a function",
    "MultiplicativeLR": "in Python, as it takes a function",
    "OneCycleLR": "not by `fused`, as it cycles the momentum",
    "ReduceLROnPlateau": "by `val/loss`, at the end of an epoch",
    "SequentialLR": "in Python, as it takes other schedules",
}


LOGGERS = {
    "CSVLogger": "`--trainer.logger CSVLogger --trainer.logger.save_dir logs`",
    "CometLogger": "",
    "LitLogger": "`--trainer.logger pytorch_lightning.loggers.LitLogger`",
    "Logger": "one of your own",
    "MLFlowLogger": "texts are artifacts there; it has no histograms",
    "TensorBoardLogger": "the default",
    "WandbLogger": "`--trainer.logger WandbLogger --trainer.logger.offline true`",
}


CHUNKS = "in chunks"


def _step(optimizer: Optimizer) -> Any:
    return lr_scheduler.StepLR(optimizer, step_size=5)


def names_of(kind: str) -> set[str]:
    """What the libraries have."""
    if kind == "callbacks":
        return set(callbacks.__all__)
    if kind == "loggers":
        return set(loggers.__all__)
    if kind == "options":
        return set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    module, base = (torch.optim, Optimizer) if kind == "optimizers" else (lr_scheduler, lr_scheduler.LRScheduler)
    classes = inspect.getmembers(module, inspect.isclass)
    return {name for name, found in classes if issubclass(found, base) and found is not base and name[0] != "_"}


@contextmanager
def at_peace() -> Iterator[None]:
    """A folder of its own, without Lightning's words; what options change in the process is changed back."""
    log = logging.getLogger("pytorch_lightning")
    level, threads, environment, place = log.level, torch.get_num_threads(), dict(os.environ), Path.cwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder)
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            os.chdir(place)
            log.setLevel(level)
            torch.use_deterministic_algorithms(False)
            torch.set_num_threads(threads)
            os.environ.clear()
            os.environ.update(environment)
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def trained(corpus: str, options: dict[str, Any], engine: str = "auto", **arguments: Any) -> tuple[MLP, str | None]:
    """An MLP that a trainer with these options has trained, and the engine that did."""
    torch.manual_seed(1)
    data, multistep = NGramDataModule(corpus), MultiStep(engine)
    model = MLP(data.vocabulary, 3, n_hidden=20, **arguments)
    with at_peace():
        given = ({} if options.get("barebones") else QUIET) | {"max_steps": UPDATES} | options
        given["callbacks"] = [multistep, *given.get("callbacks", [])]
        Trainer(**given).fit(model, data)
        model.cpu()
    return model, multistep.engine_used


def way(corpus: str, options: dict[str, Any], **arguments: Any) -> str:
    """How such a training goes: in chunks, update by update, or refused with these words."""
    try:
        _, engine = trained(corpus, options, **arguments)
    except (UserError, EngineUnavailableError) as error:
        return refused(error)
    if engine is None:
        return "trains nothing"
    return "update by update" if engine == "lightning" else CHUNKS


def way_of_callback(name: str, corpus: str) -> str:
    options: dict[str, Any] = {"callbacks": [CALLBACKS[name][0]()], "max_epochs": 2, "limit_train_batches": 6}
    options |= {"enable_progress_bar": "Bar" in name, "logger": "Monitor" in name}
    options |= {"enable_model_summary": "Summary" in name, "enable_checkpointing": "Checkpoint" in name}
    try:
        return way(corpus, options)
    except (AttributeError, MisconfigurationException) as error:  # Lightning's own; `train.py` has it in a line
        return refused(error)


def refused(error: Exception) -> str:
    """The first sentence of what was said."""
    return f"refused: {str(error).split('. ')[0].removesuffix('.')}"


def way_of_option(name: str, corpus: str) -> str:
    return way(corpus, {name: OPTIONS[name][0]})


def shown_by(name: str) -> str:
    """What reaches a logger."""
    kind = next((own for kind, own in media_loggers.KINDS.items() if issubclass(getattr(loggers, name), kind)), None)
    if kind is None:
        return "numbers, hyperparameters"
    return f"numbers, hyperparameters,{'' if kind is media_loggers.MLflow else ' histograms,'} figures, texts"


def optimizer_of(name: str) -> Callable[[Any], Optimizer]:
    return partial(getattr(torch.optim, name), **OPTIMIZERS.get(name, {"lr": 0.01}))


def sgd(parameters: Any) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def rows(kind: str, corpus: str) -> list[str]:
    """The rows of a table, in the order of the names; the last is of all of which there is nothing to say."""
    cells: dict[str, tuple[str, str]] = {}
    for name in sorted(names_of(kind)):
        if kind == "callbacks":
            cells[name] = way_of_callback(name, corpus), CALLBACKS[name][1]
        elif kind == "options":
            cells[name] = way_of_option(name, corpus), OPTIONS[name][1]
        elif kind == "loggers":
            cells[name] = shown_by(name), LOGGERS[name]
        elif kind == "optimizers":
            cells[name] = way(corpus, {}, optimizer=optimizer_of(name)), NOTES_OF_OPTIMIZERS.get(name, "")
        else:
            cells[name] = way(corpus, {}, optimizer=sgd, lr_scheduler=SCHEDULES[name]), NOTES_OF_SCHEDULES.get(name, "")
    said = {name: "; ".join(part for part in cell if part not in ("", CHUNKS)) for name, cell in cells.items()}
    plain = ", ".join(f"`{name}`" for name, text in said.items() if not text)
    return [f"| `{name}` | {text} |" for name, text in said.items() if text] + ([f"| {plain} | |"] if plain else [])


def rows_in_document(kind: str) -> list[str]:
    """The rows between the marks of a table."""
    found = re.search(f"<!-- {kind} -->\n[^\n]*\n[^\n]*\n(.*?)<!-- end -->", DOCUMENT.read_text(), flags=re.DOTALL)
    assert found is not None, kind
    return found[1].splitlines()


def main() -> None:
    text, corpus = DOCUMENT.read_text(), "sample"
    for kind in KINDS:
        pattern = f"(<!-- {kind} -->\n[^\n]*\n[^\n]*\n).*?(<!-- end -->)"
        table = "".join(f"{row}\n" for row in rows(kind, corpus))
        text = re.sub(pattern, lambda found, table=table: found[1] + table + found[2], text, flags=re.DOTALL)
    DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
