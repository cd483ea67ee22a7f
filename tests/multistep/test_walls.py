"""What this package imports, and what importing it changes."""

import ast
import subprocess
import sys
from pathlib import Path

import multistep

ROOT = Path(multistep.__file__).parent
# Torch and Lightning, and what these themselves cannot do without.
ALLOWED = {
    "torch",
    "pytorch_lightning",
    "lightning_fabric",
    "lightning_utilities",
    "torchmetrics",
    "numpy",
    "multistep",
}


def test_it_knows_torch_and_lightning_alone():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.partition(".")[0]
                assert top in ALLOWED | sys.stdlib_module_names, f"{path.name} imports {name}"


def test_its_modules_are_private_but_for_its_names():
    for path in ROOT.glob("*.py"):
        assert path.name.startswith("_")
    assert set(multistep.__all__) <= set(dir(multistep))


def test_importing_changes_nothing():
    """Contract 10: of others' modules, import hooks, the garbage collector, signals, threads and random states."""
    script = """
import gc, random, signal, sys, threading
import numpy, torch, pytorch_lightning
modules = {name: id(module) for name, module in sys.modules.items()}
def state():
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    return (
        list(map(id, sys.meta_path)), gc.isenabled(), gc.get_freeze_count(), gc.get_threshold(), handlers,
        threading.active_count(), torch.get_num_threads(), torch.get_rng_state().tolist(), random.getstate(),
        numpy.random.get_state()[1].tolist(), torch.get_default_dtype(),
    )
before = state()
import multistep
assert state() == before
assert {name: id(sys.modules.get(name)) for name in modules} == modules
from multistep import MultiStep
"""
    subprocess.run([sys.executable, "-c", script], check=True)
