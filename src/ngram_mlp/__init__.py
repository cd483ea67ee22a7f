"""Character-level n-gram MLPs as a PyTorch Lightning research template.

Promises that the code calls by number are those of docs/architecture.md.
"""

__version__ = "0.1.0"
