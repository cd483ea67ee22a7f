"""What several tests share."""

import os
from pathlib import Path

import pytest

# Each deprecated call of jsonargparse tells its own message, so that pyproject.toml can name Lightning's.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "all"

PROJECT = Path(__file__).resolve().parents[1]
NAMES = PROJECT / "data" / "names.txt"


@pytest.fixture(scope="session")
def names() -> list[str]:
    """The notebooks' words."""
    if not NAMES.exists():
        pytest.skip("needs data/names.txt, which is not in git; python scripts/train.py downloads it")
    return NAMES.read_text().splitlines()


@pytest.fixture(scope="session")
def sample_words() -> list[str]:
    """The words that the project ships."""
    return (PROJECT / "data" / "sample_names.txt").read_text().split()


@pytest.fixture
def corpus_file(tmp_path: Path, sample_words: list[str]) -> Path:
    """A corpus of 300 words, quick to train on."""
    path = tmp_path / "words.txt"
    path.write_text("\n".join(sample_words[::63][:300]))
    return path
