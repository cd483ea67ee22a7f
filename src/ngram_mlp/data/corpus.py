"""Where the words come from: a file, the notebooks' names (downloaded once), or the sample that is shipped."""

import hashlib
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ngram_mlp.data.ngrams import BOUNDARY
from ngram_mlp.errors import UserError
from ngram_mlp.runs.files import write_atomically

DATA_DIR = Path(__file__).resolve().parents[3] / "data"
NAMES_URL = "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt"
NAMES_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
DOWNLOAD_SECONDS = 10.0
DOWNLOAD_BYTES = 10_000_000
LARGEST_FILE = 2**30


class SampleCorpusWarning(UserWarning):
    """The run uses the sample that the project ships, because names.txt is absent and could not be downloaded."""


@dataclass(frozen=True)
class Corpus:
    """Words in file order. `sha256` is the hash of the file's bytes; `name` is `names`, `sample` or the file's path."""

    name: str
    sha256: str
    words: Sequence[str]

    def summary(self) -> dict[str, str | int]:
        """What a run records about its corpus: name, hash and word count."""
        return {"name": self.name, "sha256": self.sha256, "words": len(self.words)}


def load_corpus(corpus: str = "auto", data_dir: Path = DATA_DIR) -> Corpus:
    """The words of a corpus by name or path.

    Args:
        corpus: `names` for the notebooks' names.txt, downloaded if `data_dir` lacks it; `sample` for the names that
            the project ships; `auto` for names where it can be had, else sample; or the path of a UTF-8 text file
            with one word a line.
        data_dir: the folder of names.txt and sample_names.txt.

    Raises:
        UserError: the file cannot be read or downloaded, or holds something that is no word.
    """
    if corpus == "names":
        return _read("names", _names_file(data_dir))
    if corpus == "sample":
        return _read("sample", data_dir / "sample_names.txt")
    if corpus == "auto":
        try:
            return load_corpus("names", data_dir)
        except UserError as error:
            warnings.warn(f"training on the sample corpus: {error}", SampleCorpusWarning, stacklevel=2)
            return load_corpus("sample", data_dir)
    return _read(corpus, Path(corpus))


def _read(name: str, path: Path) -> Corpus:
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a regular file; give a text file with one word a line", corpus=name)
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise UserError(
                f"has {size:,} bytes, more than the {LARGEST_FILE:,} that are read; give a smaller file", corpus=name
            )
        # Files of no size, as those of the kernel, are not read: some never end.
        content = path.read_bytes() if size else b""
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot read {path} ({reason}); give auto, names, sample or the path of a text file with one word a line",
            corpus=name,
        ) from error
    return Corpus(name, hashlib.sha256(content).hexdigest(), _parse(name, content))


def _parse(name: str, content: bytes) -> list[str]:
    """The words of a file: lines without surrounding blanks; blank lines do not count, repeated words do."""
    try:
        lines = content.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"byte {error.start} is not UTF-8; save the file as UTF-8 text", corpus=name) from error
    for number, line in enumerate(lines, start=1):
        if BOUNDARY in line:
            raise UserError(
                f"line {number}, {line.strip()[:40]!r}, holds {BOUNDARY!r}, which marks the end of a word; remove or "
                "replace it",
                corpus=name,
            )
    words = [word for line in lines if (word := line.strip())]
    if not words:
        raise UserError("the file holds no word; give a text file with one word a line", corpus=name)
    return words


def _names_file(data_dir: Path) -> Path:
    path = data_dir / "names.txt"
    if not path.exists():
        try:
            content = _download(NAMES_URL)
            write_atomically(path, content)
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it holds the connection
            raise UserError(
                f"{path} is absent and could not be downloaded from {NAMES_URL} ({reason}); put the file there by hand, "
                "or use the corpus sample",
                corpus="names",
            ) from error
    return path


def _download(url: str) -> bytes:
    """The bytes at `url`, whose SHA-256 must be that of names.txt, within a limit of time and size."""
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    content = b""
    with urllib.request.urlopen(url, timeout=DOWNLOAD_SECONDS) as response:
        # read1 returns after one system call, so the deadline holds for a server that sends byte by byte as well.
        while chunk := response.read1(65536):
            content += chunk
            if time.monotonic() > deadline:
                raise TimeoutError(f"not complete after {DOWNLOAD_SECONDS:g} s")
            if len(content) > DOWNLOAD_BYTES:
                raise OSError(f"more than {DOWNLOAD_BYTES} bytes")
    digest = hashlib.sha256(content).hexdigest()
    if digest != NAMES_SHA256:
        raise OSError(f"its SHA-256 is {digest}, expected {NAMES_SHA256}")
    return content
