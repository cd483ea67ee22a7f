"""Compiles an update in Python to native code, for the fused engine.

`inductor` has torch trace an update and generate its kernels; `recorder` records which kernels and operators that code
calls, on which memory; `codegen` writes the C++ loop around them and builds it, with the `header` precompiled;
`program` runs it; `cache` keeps it for the next process, under a key made from what `_watch` describes.
"""

from typing import Any

from multistep._errors import CannotFuseError


def compiler() -> Any:
    """Imports `compile_update` and returns it; the import comes this late because torch's compiler takes seconds."""
    if not __debug__:
        raise CannotFuseError("under python -O, torch compiles wrong code; run without -O")
    try:
        from multistep.compiled.inductor import compile_update
    except Exception as error:  # from a package or a locale that torch does not expect
        raise CannotFuseError(f"torch's compiler cannot be imported here ({type(error).__name__}: {error})") from error
    return compile_update
