"""A folder for each run, which no other run writes to."""

from pathlib import Path

from ngram_mlp.errors import UserError

__all__ = ["claim_run_folder"]


def claim_run_folder(runs_dir: str, name: str) -> Path:
    """Creates and returns `RUNS_DIR/NAME/version_N` with the least N above all there.

    Creating the folder is what claims it, so that two runs that start at once get two folders.

    Raises:
        UserError: the folder cannot be created.
    """
    parent = Path(runs_dir, name)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        taken = [int(path.name[8:]) for path in parent.glob("version_*") if path.name[8:].isdecimal()]
        version = max(taken, default=-1) + 1
        while True:
            folder = parent / f"version_{version}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                version += 1
    except OSError as error:
        raise UserError(
            f"--runs_dir {runs_dir} --name {name}: cannot create a folder in {parent} ({error.strerror}); "
            "give a folder that you may write to"
        ) from error
