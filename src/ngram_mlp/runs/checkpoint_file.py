"""The bytes of a checkpoint: serialized in memory, and read back as data from a stranger, never as code."""

import io
import os
import pickletools
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ngram_mlp.errors import UserError, shortened

LARGEST_FILE = 8 * 2**30
LARGEST_PICKLE = 16 * 2**20
# A FIFO would block without O_NONBLOCK; Windows has none, and translates line ends without O_BINARY.
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
REMEDY = "give a .ckpt file of a run"
# What torch writes for tensors in containers. Its own list for `weights_only` also has names that let a few bytes
# allocate any amount of memory, such as bytearray and the constructors of tensors.
NAMES = {"collections OrderedDict", "collections Counter", "torch._utils _rebuild_tensor_v2", "torch Size"}
KINDS = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
STORAGES = {f"torch {kind}Storage" for kind in KINDS}


def serialized(content: dict[str, Any]) -> bytes:
    """The bytes of a checkpoint's file, made in memory as torch's error about a full disk is no OSError."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load(path: str | Path) -> Any:
    """What torch saved in a file, with tensors on the CPU; raises a UserError where it cannot be read.

    Nothing that the file names is imported or run, and nothing is allocated for it beyond the size of the file.
    """
    try:
        with open(os.open(path, FLAGS), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_FILE:
                raise UserError(f"is not a regular file of at most {LARGEST_FILE:,} bytes; {REMEDY}", ckpt_path=path)
            return _load(file, status.st_size)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a damaged file can raise anything in zipfile and in torch
        reason = getattr(error, "strerror", None) or "it is no checkpoint, or damaged"
        raise UserError(f"cannot be read ({reason}); {REMEDY}", ckpt_path=path) from error


def _load(file: IO[bytes], size: int) -> Any:
    """What torch unpickles from the file, once its parts are known to be undamaged and no larger than it."""
    _check_archive(file, size)
    file.seek(0)
    shapes = torch.load(file, map_location="meta", weights_only=True)  # allocates no tensor
    if sum(tensor.numel() * tensor.itemsize for tensor in _tensors(shapes)) > 2 * size:  # twice, as weights may be tied
        raise ValueError("its tensors are larger than the file")
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def _check_archive(file: IO[bytes], size: int) -> None:
    """Raises a ValueError unless the archive is as torch writes it, and names nothing but tensors and containers."""
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED or part.flag_bits & 1 for part in parts):
            raise ValueError("it is compressed or encrypted")
        if sum(part.file_size for part in parts) > size or len({part.filename for part in parts}) < len(parts):
            raise ValueError("its parts overlap")
        (pickled,) = (part for part in parts if part.filename.endswith("data.pkl"))
        if pickled.file_size > LARGEST_PICKLE:
            raise ValueError("its pickle is too large")
        if archive.testzip() is not None:  # torch itself does not compare the checksums
            raise ValueError("a checksum differs")
        opcodes = pickletools.genops(archive.read(pickled))  # reads the pickle without running it
    for opcode, argument, _ in opcodes:
        if opcode.name == "PROTO" and argument != 2:
            raise ValueError(f"pickle protocol {argument}")
        if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL") and argument not in NAMES | STORAGES:
            raise ValueError(f"it names {shortened(argument)}")


def _tensors(content: Any) -> Iterator[Tensor]:
    """The tensors in nested containers, each once, however often and deeply it is nested."""
    seen: set[int] = set()
    rest = [content]
    while rest:
        item = rest.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, dict):
            rest += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set)):
            rest += item
