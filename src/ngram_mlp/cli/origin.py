"""Where a run goes on from: which checkpoint, in which folder."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ngram_mlp.cli.run_folder import versions
from ngram_mlp.errors import UserError

__all__ = ["Origin", "find_origin"]

LAST = Path("checkpoints", "last.ckpt")


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
