"""Character-level n-gram MLPs as a PyTorch Lightning research template."""

__version__ = "0.1.0"
