"""Where a run resumes from, what may be changed then, and whether the checkpoint belongs to the run at all."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from ngram_mlp.data import NGramDataModule
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.loading import load_weights
from ngram_mlp.runs.checkpoint import Checkpoint, read_checkpoint
from runlab import LAST, PlainParser, UserError, checkpoint_file, read_configuration, shortened, versions

log = logging.getLogger(__name__)

MOST_THREADS = 1024
OF_A_SHAPE = ("momentum_buffer", "exp_avg", "exp_avg_sq")  # what an optimizer keeps in the shape of a parameter
RATES = ("model.optimizer.lr", "model.lr_scheduler")
# What may change: how long and how a run is watched, the learning rates to come, and where its files are: the corpus is
# known by its hash.
CHANGEABLE = ("trainer", "checkpoint_every", *RATES, "engine", "observe", "statistics")
PLACES = ("name", "runs_dir", "data.corpus", "data.data_dir", "ckpt_path", "resume")


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint to resume from, and the folder of its run, unless it lies in none."""

    checkpoint: Checkpoint
    folder: Path | None


def split_arguments(args: Sequence[str]) -> tuple[list[str], ResumePoint | None]:
    """The arguments for the parser, and where the run resumes from: that decides with which configuration it begins.

    `--config FILE` is put before all others, so that an override holds wherever it stands: the parser applies arguments
    in order, and `--model.n_hidden 9 --config a.yaml` would lose the 9.

    Raises:
        UserError: there is no such checkpoint, or the name given is not that of its run.
    """
    parser = PlainParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    for option in ("--ckpt_path", "--resume", "--name", "--runs_dir"):
        parser.add_argument(option)
    known, others = parser.parse_known_args(args)
    options = vars(known)
    files = options.pop("config")
    configs: list[str] = []
    typed = [word for option, value in options.items() if value is not None for word in (f"--{option}", value)]
    for file in files:
        given = read_configuration(file)
        configs += ["--config", _with_engine(file, given)]
        options |= {key: given[key] for key in options if options[key] is None and given.get(key)}
    return [*configs, *typed, *_engine_renamed(others)], _origin(**options)


def _engine_renamed(words: Sequence[str]) -> list[str]:
    """The arguments with `--engine` in the place of the `--model.engine` of version 0.2."""
    if any(word.split("=")[0] == "--model.engine" for word in words):
        log.info("--model.engine is --engine now; taken as that")
    return [re.sub(r"^--model\.engine(?==|$)", "--engine", word) for word in words]


def _with_engine(file: str, given: dict[str, Any]) -> str:
    """A configuration file, or its content as JSON with `engine` where 0.2 had it among the model's arguments."""
    model = given.get("model")
    for group in (model, model.get("init_args") if isinstance(model, dict) else None):
        if isinstance(group, dict) and "engine" in group:
            log.info("%s: model.engine is engine now; taken as that", file)
            given.setdefault("engine", group.pop("engine"))
            return json.dumps(given)
    return file


def _origin(ckpt_path: str | None, resume: str | None, name: str | None, runs_dir: str | None) -> ResumePoint | None:
    """What `--ckpt_path last`, a file or a run's folder there, or `--resume RUN_FOLDER` means; None for a new run."""
    if resume is not None:
        if ckpt_path is not None:
            raise UserError(f"and ckpt_path {ckpt_path}: give one of them", resume=resume)
        path = Path(resume) / LAST
        for needed in (Path(resume) / "config.yaml", path):
            if not needed.is_file():
                raise UserError(f"there is no {needed}; give a folder RUNS_DIR/NAME/version_N", resume=resume)
    elif ckpt_path == "last":
        parent = Path(runs_dir or "runs", name or "default")
        runs = [parent / f"version_{number}" for number in sorted(versions(parent))]
        begun = [run for run in runs if (run / LAST).is_file() and (run / "config.yaml").is_file()]
        if not begun:
            raise UserError(f"no run in {parent} has a {LAST}; give another name or runs_dir", ckpt_path="last")
        path = begun[-1] / LAST
    elif ckpt_path is not None:
        path = checkpoint_file(ckpt_path)
    else:
        return None
    own = path.absolute().parent.parent
    if path.absolute().parent.name != "checkpoints" or not (own / "config.yaml").is_file():
        return ResumePoint(read_checkpoint(path), None)
    folder = path.parent.parent if len(path.parts) > 2 else own
    if Path(runs_dir or own.parent.parent, name or own.parent.name).absolute() != own.parent:
        wrong = {"name": name} if name else {"runs_dir": runs_dir}
        raise UserError(f"the run resumes in its own folder, {folder}; leave it out", **wrong)
    return ResumePoint(read_checkpoint(path), folder)


def check_checkpoint(checkpoint: Checkpoint, configuration: str, model: LanguageModel, data: NGramDataModule) -> None:
    """Checks that a run with this configuration, model and data can resume from a checkpoint.

    Everything in it is loaded once, so that what does not fit is found before the run's folder is touched. Learning
    rates that are given anew are written into it, as they are at its update.

    Raises:
        UserError: it does not belong to them, or something is asked for that can no longer be changed.
    """
    changed = _changes(checkpoint, json.loads(configuration))
    data.refuse_another_corpus(checkpoint.stream["corpus"])
    try:
        _load_once(checkpoint, model)
        if any(option.startswith(RATES) for option in changed):
            _renew_rates(checkpoint, model)
    except UserError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise cannot_resume(checkpoint.path, error) from error


def cannot_resume(path: Path, error: BaseException) -> UserError:
    """The line about a checkpoint whose content led to an error."""
    return UserError(f"no run can resume from it: {shortened(f'{type(error).__name__}: {error}', 300)}", ckpt_path=path)


def _load_once(checkpoint: Checkpoint, model: LanguageModel) -> None:
    """Raises one of several errors where parts of a checkpoint are absent, do not fit the model or each other."""
    if checkpoint.model != type(model).__name__ or checkpoint.hyperparameters != model.hparams:
        raise ValueError("its model is not that of its configuration")
    load_weights(model, checkpoint.weights)
    configured = model.configure_optimizers()
    configured["optimizer"].load_state_dict(checkpoint.content["optimizer_states"][0])
    _check_state(configured["optimizer"])
    configured["lr_scheduler"]["scheduler"].load_state_dict(checkpoint.content["lr_schedulers"][0])
    stream, parts = checkpoint.stream, checkpoint.parts
    for state in (stream["minibatches"]["generator"], stream["default_generator"]):
        torch.Generator().set_state(state)
    if not isinstance(stream["minibatches"]["position"], int):
        raise ValueError("the place in its epoch is no number")
    callbacks, loops = checkpoint.content["callbacks"], checkpoint.content["loops"]["fit_loop"]
    steps = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    if not callbacks["Losses"]["losses"].shape == (checkpoint.update,) == (steps,):
        raise ValueError("its losses, its loops and its weights are not of one update")
    threads = callbacks["MultiStep"]["threads"]
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MOST_THREADS):
        raise ValueError("its number of threads is none")
    if not all(isinstance(size, int) and size >= 0 for size in parts["events"].values()):
        raise ValueError("the length of a TensorBoard file is no length")


def _check_state(optimizer: Optimizer) -> None:
    """Raises a ValueError where the state loaded into an optimizer does not fit its parameters."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            expected = parameter.shape if key in OF_A_SHAPE else ()
            if key in {*OF_A_SHAPE, "step"} and value is not None and getattr(value, "shape", None) != expected:
                raise ValueError(f"the optimizer's {key} is not of the shape {tuple(expected)}")


def _renew_rates(checkpoint: Checkpoint, model: LanguageModel) -> None:
    configured = model.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]
    scheduler = schedule["scheduler"]
    if schedule["interval"] == "step":
        optimizer._opt_called = True  # what a schedule checks before its first step
        for _ in range(checkpoint.update):
            scheduler.step()
    saved_groups = checkpoint.content["optimizer_states"][0]["param_groups"]
    for saved, new in zip(saved_groups, optimizer.param_groups, strict=True):
        saved |= {key: new[key] for key in ("lr", "initial_lr")}
    checkpoint.content["lr_schedulers"] = [scheduler.state_dict()]


def _changes(checkpoint: Checkpoint, given: dict[str, Any]) -> list[str]:
    """The options that differ from those a checkpoint was trained with, all of which a resumed run can honour.

    Raises:
        UserError: an option differs that can no longer be changed.
    """
    try:
        before = dict(_flattened(json.loads(checkpoint.parts["configuration"])))
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError) as error:
        raise checkpoint.error("holds no configuration, so no run can resume from it") from error
    now = dict(_flattened(given))
    changed = [key for key in before | now if before.get(key) != now.get(key) and key not in PLACES]
    for key in changed:
        if not any(f"{key}.".startswith(f"{other}.") for other in CHANGEABLE):
            raise UserError(
                f"--{key} {shortened(now.get(key))}: the checkpoint was trained with {shortened(before.get(key))}; "
                f"a resumed run can change --{', --'.join(CHANGEABLE)}; leave this as it was, or start a new run"
            )
    if 0 <= (updates := now["trainer.max_steps"]) < checkpoint.update:
        raise UserError(f"the checkpoint is at update {checkpoint.update}; give at least that", max_steps=updates)
    return changed


def _flattened(nested: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a configuration by option, as it is typed: without `class_path` and `init_args`."""
    for key, value in nested.items():
        name = prefix.removesuffix(".") if key == "class_path" else prefix if key == "init_args" else f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _flattened(value, f"{name.removesuffix('.')}.")
        else:
            yield name, value
