"""From an update in Python to native code, for the fused engine.

`inductor` has torch trace an update and write its kernels; `recorder` notes which kernels and operators that code
calls, on which memory; `codegen` writes the loop around them in C++ and builds it; `program` runs it; `cache` keeps it
for the next process, under a key made of what `_watch` describes.
"""
