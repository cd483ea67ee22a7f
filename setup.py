"""What pyproject.toml cannot say: a wheel holds the default configuration, whose only copy is in `configs`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

DEFAULT = Path("configs", "default.yaml")


class BuildWithDefaultConfig(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copy(DEFAULT, Path(self.build_lib, "ngram_mlp", DEFAULT.name))


setup(cmdclass={"build_py": BuildWithDefaultConfig})
