"""Paths of the package's own files and of the user's data."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
DEFAULT_CONFIG = PACKAGE / "default.yaml"  # in a checkout, a link to configs/default.yaml
SAMPLE_CORPUS = PACKAGE / "data" / "sample_names.txt"
# Files of words, and the downloaded names.txt: `data` in the checkout if there is one, else in the working directory.
_PROJECT = PACKAGE.parents[1]
DATA_DIR = _PROJECT / "data" if (_PROJECT / "configs" / "default.yaml").is_file() else Path("data")
