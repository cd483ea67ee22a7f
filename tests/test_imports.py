"""The compiler is imported late, and nobody can tell: each statement runs in an interpreter of its own."""

import subprocess
import sys

import pytest

BEFORE = """
import sys
import ngram_mlp
import torch
from pytorch_lightning.utilities.compile import OptimizedModule
postponed = lambda: "torch._dynamo.utils" not in sys.modules
assert postponed()
"""
NEEDS_IT = {
    "compiling": "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2)).tolist() == [2, 2]",
    "an attribute": "assert torch._dynamo.is_compiling() is False",
    "a module of it": "import torch._dynamo.config; assert torch._dynamo.config is sys.modules['torch._dynamo.config']",
    "a name in a module of it": """
from torch._dynamo.utils import counters
import torch._dynamo.utils
assert torch._dynamo.utils.counters is counters
""",
    "one of its modules that it does not import itself": """
import torch._dynamo.testing
assert torch._dynamo.testing.__spec__.name == 'torch._dynamo.testing'
""",
    "Lightning's class": """
model = torch.nn.Linear(2, 2)
compiled = torch.compile(model, backend='eager')
assert isinstance(compiled, OptimizedModule)
assert not isinstance(model, OptimizedModule)
""",
    "exporting": "torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))",
}
LONG = ("exporting", "an attribute", "a name in a module of it")
DOES_NOT_NEED_IT = {
    "seeding": "torch.manual_seed(1)",
    "an update": """
layer = torch.nn.Linear(2, 2)
optimizer = torch.optim.Adam(layer.parameters())
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
""",
    "Lightning's class": "assert not isinstance(torch.nn.Linear(2, 2), OptimizedModule)",
    "a model": "ngram_mlp.BatchNormMLP('.ab', 3)",
}


def run(statements):
    subprocess.run([sys.executable, "-W", "ignore", "-c", BEFORE + statements], check=True, timeout=120)


@pytest.mark.parametrize(
    "statements",
    [pytest.param(s, id=name, marks=[pytest.mark.slow] * (name in LONG)) for name, s in NEEDS_IT.items()],
)
def test_what_needs_the_compiler_finds_it(statements):
    run(statements + "\nassert not postponed()\nassert torch._dynamo is sys.modules['torch._dynamo']")


@pytest.mark.parametrize("statements", DOES_NOT_NEED_IT.values(), ids=DOES_NOT_NEED_IT)
def test_what_does_not_need_it_does_not_wait_for_it(statements):
    run(statements + "\nassert postponed()")


@pytest.mark.slow
def test_garbage_is_collected_as_before():
    run("import gc\nassert gc.isenabled()\nassert gc.get_freeze_count() > 100_000")
    switched_off = "import gc\ngc.disable()\nimport ngram_mlp\nassert not gc.isenabled()"
    subprocess.run([sys.executable, "-W", "ignore", "-c", switched_off], check=True, timeout=120)
