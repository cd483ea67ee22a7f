"""Many runs compared: which runs a study has, a pool of processes that trains them, and its report with error bars.

Machinery: a study of your own needs no code, only configurations and options of `scripts/compare.py`.
"""
