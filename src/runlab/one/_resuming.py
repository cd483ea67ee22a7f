"""Determines where a run resumes from, and which of its options may change."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runlab._config_files import read_configuration
from runlab._errors import UserError, shortened
from runlab._files import LAST, checkpoint_file, finished_at
from runlab._options import flattened
from runlab._parser import PlainParser
from runlab.one._checkpoint import Checkpoint, read_checkpoint


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint to resume from, and the folder of its run; None if it lies in no run's folder."""

    checkpoint: Checkpoint
    folder: Path | None


def split_arguments(args: Sequence[str]) -> tuple[list[str], ResumePoint | None]:
    """Returns the arguments for the parser, and the point to resume from, which determines the default configuration.

    Moves `--config FILE` before the other arguments, so that overrides hold wherever they are typed: the parser applies
    arguments in order, and `--model.n_hidden 9 --config a.yaml` would lose the 9.

    Raises:
        UserError: there is no such checkpoint, or the name or runs_dir given is not that of its run.
    """
    parser = PlainParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    for option in ("--ckpt_path", "--resume", "--name", "--runs_dir"):
        parser.add_argument(option)
    known, others = parser.parse_known_args(args)
    options = vars(known)
    files = options.pop("config")
    configs: list[str] = []
    where: dict[str, str] = {}  # the file that sets each option
    open_ = [option for option, value in options.items() if value is None]
    typed = [word for option, value in options.items() if value is not None for word in (f"--{option}", value)]
    for file in files:
        given = read_configuration(file)
        configs += ["--config", file]
        found = {key: given[key] for key in open_ if given.get(key)}
        for key, value in found.items():
            if not isinstance(value, str):
                raise UserError(f"{file}: {key}: {value} is not a string; put it in quotes")
        options |= found
        where |= dict.fromkeys(found, file)
    return [*configs, *typed, *others], _origin(where, **options)


def _origin(
    files: dict[str, str], ckpt_path: str | None, resume: str | None, name: str | None, runs_dir: str | None
) -> ResumePoint | None:
    """Returns what `--ckpt_path` (last, a file or a run's folder) or `--resume` points to; None for a new run."""
    if resume is not None:
        if ckpt_path is not None:
            raise UserError("give either this or --ckpt_path, not both", resume=resume)
        own = Path(resume)
        if own.is_file():
            if own.absolute().parts[-2:] != LAST.parts:
                raise UserError(f"is not a run's {LAST}; give the run's folder, or --ckpt_path FILE", resume=resume)
            own = own.absolute().parents[1]
        path = own / LAST
        for needed in (own / "config.yaml", path):
            if not needed.is_file():
                raise UserError(f"there is no {needed}; give a folder RUNS_DIR/NAME/version_N", resume=resume)
    elif ckpt_path == "last":
        parent = Path(runs_dir or "runs", name or "default")
        begun = [run / LAST for run in parent.rglob("version_*") if (run / LAST).is_file()]
        begun = [path for path in begun if path.parents[1].joinpath("config.yaml").is_file()]
        if not begun:
            raise UserError(f"no run in {parent} has a {LAST}; give another name or runs_dir", ckpt_path="last")
        path = max(begun, key=lambda path: path.stat().st_mtime_ns)
    elif ckpt_path is not None:
        path = checkpoint_file(ckpt_path)
    else:
        return None
    own = path.absolute().parent.parent
    if path.absolute().parent.name != "checkpoints" or not (own / "config.yaml").is_file():
        return ResumePoint(read_checkpoint(path), None)
    folder = path.parent.parent if len(path.parts) > 2 else own
    places = [Path(runs_dir).absolute()] if runs_dir else own.parents
    if not any(place / (name or "") in own.parents for place in places):
        option, value = ("name", name) if name else ("runs_dir", runs_dir)
        wrong = {"config": files[option]} if option in files else {option: value}
        named = f"gives another location, {value}; " if option in files else ""
        raise UserError(f"{named}the run resumes in its own folder, {folder}; remove --{option}", **wrong)
    return ResumePoint(read_checkpoint(path), folder)


def cannot_resume(path: Path, error: BaseException) -> UserError:
    """Returns the UserError about a checkpoint whose content led to an error."""
    return UserError(f"no run can resume from it: {shortened(f'{type(error).__name__}: {error}', 300)}", ckpt_path=path)


def changed_options(
    checkpoint: Checkpoint, given: dict[str, Any], changeable: Sequence[str], places: Sequence[str]
) -> list[str]:
    """Returns the options that differ from those of a checkpoint, all of which may change.

    Args:
        checkpoint: the checkpoint to resume from.
        given: the configuration of the resumed run, nested.
        changeable: options, or groups of them, that a resumed run can honour.
        places: options that locate files, which are not compared.

    Raises:
        UserError: another option differs, max_steps is below the checkpoint's update, or it has no configuration.
    """
    try:
        before = dict(flattened(json.loads(checkpoint.parts["configuration"])))
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError) as error:
        raise checkpoint.error("contains no configuration, so no run can resume from it") from error
    now = dict(flattened(given))
    changed = [key for key in before | now if before.get(key) != now.get(key) and key not in places]
    for key in changed:
        if not any(f"{key}.".startswith(f"{other}.") for other in changeable):
            raise UserError(
                f"--{key} {shortened(now.get(key))}: the checkpoint was trained with {shortened(before.get(key))}; "
                f"a resumed run can change only --{', --'.join(changeable)}; restore the old value, or start a new run"
            )
    if 0 <= (updates := now["trainer.max_steps"]) < checkpoint.update:
        least = f"{checkpoint.update:,}"
        raise UserError(f"the checkpoint is at update {least}; give {least} or more", max_steps=updates)
    return changed


def refuse_finished(folder: Path | None, checkpoint: Checkpoint, trainer: Any) -> None:
    """Raises a UserError if a run has results and nothing left to train, as resuming would rewrite them.

    Args:
        folder: the run's folder; None for a checkpoint outside one.
        checkpoint: the run's last checkpoint.
        trainer: the trainer's options now; `max_steps` and `max_epochs` are read.
    """
    max_steps, max_epochs = trainer.max_steps, trainer.max_epochs
    if folder is None or finished_at(folder) != checkpoint.update:  # not finished, or resumed and interrupted since
        return
    if 0 <= max_steps <= checkpoint.update:
        raise UserError(
            f"the run has reached update {checkpoint.update:,}; increase it to continue training",
            **{"trainer.max_steps": max_steps},
        )
    epochs = checkpoint.content["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"]
    if max_epochs is not None and 0 <= max_epochs <= epochs:
        raise UserError(
            f"the run has trained {epochs:,} epochs; increase it to continue training",
            **{"trainer.max_epochs": max_epochs},
        )
