"""Where the files that come with this package are: in a checkout of the project beside it, installed within it."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
PROJECT = PACKAGE.parents[1]
IN_CHECKOUT = (PROJECT / "configs" / "default.yaml").is_file() and (PROJECT / "scripts" / "train.py").is_file()

SAMPLE_CORPUS = PACKAGE / "data" / "sample_names.txt"
# Where users put files of words, and names.txt is downloaded to: of an installed package, in the folder they work in.
DATA_DIR = PROJECT / "data" if IN_CHECKOUT else Path("data")
DEFAULT_CONFIG = PROJECT / "configs" / "default.yaml" if IN_CHECKOUT else PACKAGE / "default.yaml"
# What trains the runs of a study.
TRAIN_SCRIPT = PROJECT / "scripts" / "train.py" if IN_CHECKOUT else PACKAGE / "cli" / "train.py"
