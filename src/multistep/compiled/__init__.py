"""From an update in Python to native code, for the fused engine.

`inductor` has torch trace an update and write its kernels; `recorder` notes which kernels and operators that code
calls, on which memory; `codegen` writes the loop around them in C++ and builds it, with the `header` precompiled;
`program` runs it; `cache` keeps it for the next process, under a key made of what `_watch` describes.
"""

from typing import Any

from multistep._errors import CannotFuseError


def compiler() -> Any:
    """Returns the function that compiles, imported now, since torch's compiler takes seconds to import."""
    if not __debug__:
        raise CannotFuseError("python -O has torch compile wrong code; leave it out")
    try:
        from multistep.compiled.inductor import compile_update
    except Exception as error:  # of a package or a locale that torch did not reckon with
        raise CannotFuseError(f"torch's compiler cannot be imported here ({type(error).__name__}: {error})") from error
    return compile_update
