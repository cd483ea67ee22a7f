"""Where a run goes on from, and what about it may be changed then."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ngram_mlp.cli.run_folder import versions
from ngram_mlp.errors import UserError
from ngram_mlp.terminal import shortened

__all__ = ["Origin", "find_origin", "flattened", "refuse_changes"]

LAST = Path("checkpoints", "last.ckpt")
# What may change while the checkpoint stays true: how long and how a run is watched, where its files are (the corpus is
# told by its hash), and the learning rates to come.
CHANGEABLE = ("trainer", "checkpoint_every", "model.optimizer.lr", "model.lr_scheduler", "model.engine")
PLACES = ("name", "runs_dir", "data.corpus", "data.data_dir", "ckpt_path", "resume")


@dataclass(frozen=True)
class Origin:
    """A checkpoint to go on from, and the folder of its run, unless it lies in none."""

    checkpoint: Path
    folder: Path | None

    @property
    def configuration(self) -> Path | None:
        """The configuration of the run, which counts where nothing else is given."""
        return self.folder / "config.yaml" if self.folder else None


def find_origin(args: Sequence[str]) -> Origin | None:
    """What `--ckpt_path last`, `--ckpt_path FILE` or `--resume RUN_FOLDER` means; None for a run of its own.

    Raises:
        UserError: there is no such checkpoint, or the name given is not that of its run.
    """
    options = _options(args)
    ckpt_path, resume = options["ckpt_path"], options["resume"]
    if ckpt_path is not None and resume is not None:
        raise UserError(f"--resume {resume} --ckpt_path {ckpt_path}: give one of them")
    if ckpt_path == "last":
        return _last_of(Path(options["runs_dir"] or "runs", options["name"] or "default"))
    if ckpt_path is not None:
        path = Path(ckpt_path).absolute()
        in_a_run = path.parent.name == "checkpoints" and (path.parents[1] / "config.yaml").is_file()
        origin = Origin(Path(ckpt_path), Path(ckpt_path).parent.parent if in_a_run else None)
    elif resume is not None:
        origin = Origin(Path(resume) / LAST, Path(resume))
        for path in (Path(resume) / "config.yaml", origin.checkpoint):
            if not path.is_file():
                raise UserError(f"--resume {resume}: there is no {path}; give a folder RUNS_DIR/NAME/version_N")
    else:
        return None
    if origin.folder:
        own = origin.folder.absolute().parent
        if Path(options["runs_dir"] or own.parent, options["name"] or own.name).absolute() != own:
            raise UserError(f"--runs_dir, --name: the run goes on in its own folder, {origin.folder}; leave them out")
    return origin


def _options(args: Sequence[str]) -> dict[str, str | None]:
    """The options that tell where a run goes on from: they decide which configuration the parser starts with."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    for option in ("--ckpt_path", "--resume", "--name", "--runs_dir"):
        parser.add_argument(option)
    try:
        options = vars(parser.parse_known_args(list(args))[0])
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    for file in options.pop("config"):
        try:
            given = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # the parser itself tells what is wrong
        if isinstance(given, dict):
            options |= {key: given[key] for key in options if options[key] is None and given.get(key)}
    return options


def _last_of(parent: Path) -> Origin:
    """The newest run below a folder that has a last checkpoint."""
    for version in sorted(versions(parent), reverse=True):
        folder = parent / f"version_{version}"
        if (folder / LAST).is_file() and (folder / "config.yaml").is_file():
            return Origin(folder / LAST, folder)
    raise UserError(
        f"--ckpt_path last: no run in {parent} has a {LAST}; name another with --name or --runs_dir, "
        "give --resume RUN_FOLDER, or leave the option out to start afresh"
    )


def refuse_changes(checkpoint: dict[str, Any], given: dict[str, Any]) -> set[str]:
    """Compares this configuration with the one that a checkpoint was trained with.

    Returns:
        The options that differ, all of which a run that goes on can honour.

    Raises:
        UserError: an option differs that cannot be changed any more.
    """
    try:
        before = dict(flattened(json.loads(checkpoint["configuration"])))
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError) as error:
        raise UserError(
            "--ckpt_path: the checkpoint holds no configuration, so that no run can go on from it"
        ) from error
    now = dict(flattened(given))
    changed = {key for key in {**before, **now} if before.get(key) != now.get(key) and key not in PLACES}
    for key in [key for key in {**before, **now} if key in changed]:
        if not any(key == other or key.startswith(f"{other}.") for other in CHANGEABLE):
            raise UserError(
                f"--{key} {shortened(now.get(key))}: the checkpoint was trained with {shortened(before.get(key))}; "
                f"a run that goes on can change --{', --'.join(CHANGEABLE)}; leave this as it was, or start a new run"
            )
    if (updates := now["trainer.max_steps"]) < (done := checkpoint["global_step"]):
        raise UserError(f"--trainer.max_steps {updates}: the checkpoint is at update {done}; give at least that")
    return changed


def flattened(nested: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a configuration by option, as it is typed: `class_path` and `init_args` are left out of names."""
    for key, value in nested.items():
        name = prefix.removesuffix(".") if key == "class_path" else prefix if key == "init_args" else f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{name.removesuffix('.')}.")
        else:
            yield name, value
