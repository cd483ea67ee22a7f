"""Loads words or a text: from a file, the notebooks' names (downloaded once), or the shipped sample."""

import hashlib
import re
import stat
import time
import unicodedata
import urllib.error
import urllib.request
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ngram_mlp.data.tokenizer import Unit
from ngram_mlp.places import DATA_DIR, SAMPLE_CORPUS
from runlab import UserError, write_atomically

NAMES_URL = "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt"
NAMES_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
DOWNLOAD_SECONDS = 10.0
DOWNLOAD_BYTES = 10_000_000
LARGEST_FILE = 2**30
LINE_END = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")  # as Unicode defines them


class SampleCorpusWarning(UserWarning):
    """Warns that the run uses the shipped sample, because names.txt is absent and could not be downloaded."""


@dataclass(frozen=True)
class Corpus:
    """Words in file order, or a text.

    Attributes:
        name: `names`, `sample` or the file's path.
        sha256: the hash of the file's bytes.
        words: one per line; for a text, one item with all of it.
        unit: what is learned: each line by itself, or the text across its lines.
    """

    name: str
    sha256: str
    words: Sequence[str]
    unit: Unit = "line"

    def summary(self) -> dict[str, str | int]:
        """Returns what a run records about its corpus: name, hash and word count, or the unit."""
        held: dict[str, str | int] = {"words": len(self.words)} if self.unit == "line" else {"unit": self.unit}
        return {"name": self.name, "sha256": self.sha256, **held}


def load_corpus(corpus: str = "auto", data_dir: Path = DATA_DIR, unit: Unit = "line") -> Corpus:
    """Returns the corpus of a name or path, as `NGramDataModule` describes; raises a UserError if there is none."""
    if not isinstance(corpus, (str, Path)):
        raise UserError("give auto, names, sample, or the path of a file with one word per line", corpus=None)
    if corpus == "auto":
        try:
            return load_corpus("names", data_dir, unit)
        except UserError as error:
            warnings.warn(f"training on the sample corpus: {error}", SampleCorpusWarning, stacklevel=2)
            return load_corpus("sample", data_dir, unit)
    path = {"names": data_dir / "names.txt", "sample": SAMPLE_CORPUS}.get(corpus, Path(corpus))
    if corpus == "names" and not path.exists():
        _download_names(path)
    return _read(corpus, path, unit)


def _read(name: str, path: Path, unit: Unit) -> Corpus:
    try:
        status = path.stat()
        readable = stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST_FILE
        # Files of size 0, such as the kernel's, are not read: some never end.
        content = path.read_bytes() if readable and status.st_size else b""
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot read {path.absolute()} ({reason}); give auto, names, sample or a path", corpus=name
        ) from error
    if not readable:
        kind = "a folder" if path.is_dir() else f"not a regular file of at most {LARGEST_FILE:,} bytes"
        raise UserError(f"{path} is {kind}; give a text file", corpus=name)
    return Corpus(name, hashlib.sha256(content).hexdigest(), _parse(name, content, unit), unit)


def _parse(name: str, content: bytes, unit: Unit) -> list[str]:
    """Returns the stripped lines, or the text with line feeds as line ends, in Unicode's composed form (NFC).

    Blank lines do not count as words; repeated words do. Without NFC, an accent that is a character of its own in only
    some words would split one character into two.
    """
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"byte {error.start} is not UTF-8; save the file as UTF-8 text", corpus=name) from error
    lines = LINE_END.split(unicodedata.normalize("NFC", text))
    words = [word for line in lines if (word := line.strip())]
    if not words:
        raise UserError("the file has no words; give one word per line", corpus=name)
    return words if unit == "line" else ["\n".join(lines)]


def _download_names(path: Path) -> None:
    try:
        content = _download(NAMES_URL)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it keeps the connection open
        message = (
            f"{path} cannot be downloaded from {NAMES_URL} ({reason}); put the file there, or use the corpus sample"
        )
        raise UserError(message, corpus="names") from error


def _download(url: str) -> bytes:
    """Returns the bytes at `url`, which must have the hash of names.txt; limits time and size."""
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    content = b""
    with urllib.request.urlopen(url, timeout=DOWNLOAD_SECONDS) as response:
        # read1 returns after one system call, so the deadline also holds for a server that sends byte by byte.
        while chunk := response.read1(65536):
            content += chunk
            if time.monotonic() > deadline:
                raise TimeoutError(f"not complete after {DOWNLOAD_SECONDS:g} s")
            if len(content) > DOWNLOAD_BYTES:
                raise OSError(f"more than {DOWNLOAD_BYTES} bytes")
    if (digest := hashlib.sha256(content).hexdigest()) != NAMES_SHA256:
        raise OSError(f"its SHA-256 is {digest}, expected {NAMES_SHA256}")
    return content
