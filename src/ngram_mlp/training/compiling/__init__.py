"""From an update in Python to native code, for the fused engine.

`traced` writes an update as a function of tensors; `compiler` has torch trace it and inductor write its kernels;
`recording` notes which kernels and operators that code calls, on which memory; `native` writes the loop around them in
C++ and builds it; `program` runs it; `library` keeps it for the next process, under a key that `structure` helps to
make.
"""
