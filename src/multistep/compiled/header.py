"""Precompiles the headers that every compiled update includes, once per machine."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch._inductor.cpp_builder import CppBuilder, CppTorchDeviceOptions, get_compiler_version_info
from torch._inductor.cpu_vec_isa import VecISA

from multistep.compiled import cache

INCLUDES = ("#include <string>", "#include <type_traits>", "#include <torch/csrc/inductor/cpp_prefix.h>")
NAME = "prefix.h"
FLAGS = ("-g0", "-w")  # neither debugging information nor warnings, which take a tenth of the time


def precompiled(isa: VecISA, say: Callable[[str], None]) -> str | None:
    """Returns the path of a header with `INCLUDES`, next to which the compiler finds it precompiled, or None.

    The first update compiled on a machine only leaves a mark, because one alone does not make up for the seconds of
    precompiling. The result is None then, and if the cache directory is not private or not writable.

    Args:
        isa: the instruction set to compile for.
        say: prints a line for the user.
    """
    options = CppTorchDeviceOptions(vec_isa=isa, device_type="cpu", precompiling=True, extra_flags=FLAGS)
    command = CppBuilder(name=NAME, sources=NAME, BuildOption=options).get_command_line()
    surroundings = [command, torch.version.git_version, get_compiler_version_info(options.get_compiler()), INCLUDES]
    place = cache.folder() / f"header-{hashlib.sha256(json.dumps(surroundings).encode()).hexdigest()[:32]}"
    found = None
    with suppress(Exception):  # from the file system, or from the compiler, which will raise it again for the update
        cache.folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        if not place.exists():
            place.mkdir(mode=0o700)
        elif cache.is_private(cache.folder()) and cache.is_private(place):
            if not (place / NAME).is_file():
                say("engine fused: precompiling torch's headers (once per machine) ...")
                _precompile(place, options)
            found = str(place / NAME)
    return found


def _precompile(place: Path, options: CppTorchDeviceOptions) -> None:
    with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as folder:
        header = Path(folder, NAME)
        header.write_text("\n".join(INCLUDES) + "\n", encoding="utf-8")
        builder = CppBuilder(name=str(header), sources=str(header), BuildOption=options)
        builder.build()
        result = Path(builder.get_target_file_path())
        os.replace(result, place / result.name)
        os.replace(header, place / NAME)  # last, because it marks the other one as complete
