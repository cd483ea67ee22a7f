"""The bytes of a checkpoint: serialized in memory, and read back as data from a stranger, never as a program."""

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
# What torch writes for tensors in containers. Its own list for `weights_only` also has names that make a few bytes
# allocate any amount of memory, such as bytearray and the constructors of tensors.
NAMES = {"collections OrderedDict", "collections Counter", "torch._utils _rebuild_tensor_v2", "torch Size"}
KINDS = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
STORAGES = {f"torch {kind}Storage" for kind in KINDS}


def serialized(content: dict[str, Any]) -> bytes:
    """The bytes of a checkpoint's file. In memory, since torch reports a full disk by an error that is not an OSError."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load(path: str | Path) -> Any:
    """What is in a file that torch saved, tensors on the CPU; nothing in it is imported or run.

    Raises:
        UserError: there is no such file, or it is damaged or too large.
    """
    try:
        # A FIFO would block us if it were opened as a file is.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError("is not a regular file; give a .ckpt file of a run", ckpt_path=path)
            if size > LARGEST_FILE:
                raise UserError(
                    f"has {size:,} bytes, more than the {LARGEST_FILE:,} that are read; give a .ckpt file of a run",
                    ckpt_path=path,
                )
            return _load(file, size)
    except (UserError, MemoryError):
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no checkpoint, or damaged"
        raise UserError(f"cannot be read ({reason}); give a .ckpt file of a run", ckpt_path=path) from error
    except Exception as error:  # a damaged file can raise anything in zipfile and in torch
        raise UserError("is no checkpoint, or damaged; give a .ckpt file of a run", ckpt_path=path) from error


def _load(file: IO[bytes], size: int) -> Any:
    """What torch unpickles from the file, once its parts are known to be undamaged and as large as it says."""
    _check_names(_pickle_of(file, size))
    file.seek(0)
    shapes = torch.load(file, map_location="meta", weights_only=True)  # allocates no tensor
    if sum(tensor.numel() * tensor.itemsize for tensor in _tensors(shapes)) > 2 * size:  # twice, as weights may be tied
        raise ValueError("its tensors are larger than the file")
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def _pickle_of(file: IO[bytes], size: int) -> bytes:
    """The pickle in the archive, which must be as torch writes it: parts of their stated size, not compressed."""
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
        return archive.read(pickled)


def _check_names(pickled: bytes) -> None:
    """Raises a ValueError where a pickle, which is not run, names anything but tensors and containers."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "PROTO" and argument != 2:
            raise ValueError(f"pickle protocol {argument}")
        if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL") and argument not in NAMES | STORAGES:
            raise ValueError(f"it names {shortened(argument)}")


def _tensors(content: Any) -> Iterator[Tensor]:
    """The tensors in nested containers, each once, however often and deeply they are nested."""
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
