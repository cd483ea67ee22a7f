"""Commands start without what few of them need, and have it when they do."""

import subprocess
import sys

import pytest

START = """
import sys
from runlab import quick_start
quick_start()
assert "eval_frame" not in vars(sys.modules["torch._dynamo"]) and "matplotlib" not in sys.modules
import torch, pytorch_lightning
"""
LATER = {
    "a compiled function": """
compiled = torch.compile(lambda x: x.sin() * 2, backend="eager")
assert torch.equal(compiled(torch.ones(3)), torch.ones(3).sin() * 2)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
""",
    "a compiled module, which Lightning takes out": """
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.utilities.compile import _maybe_unwrap_optimized
model = BoringModel()
assert type(_maybe_unwrap_optimized(torch.compile(model))) is BoringModel
assert _maybe_unwrap_optimized(model) is model
""",
    "a module within dynamo": """
import torch._dynamo.config
assert torch._dynamo.config is sys.modules["torch._dynamo.config"]
assert torch._dynamo.is_compiling() is False
""",
    "an optimizer": """
p = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.Adam([p], lr=0.5)
optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
p.sum().backward()
optimizer.step()
optimizer.zero_grad()
assert torch.allclose(p, torch.tensor(0.5)) and p.grad is None
""",
    "metrics": """
from torchmetrics.classification import BinaryAccuracy
import torchmetrics
metric = torchmetrics.MetricCollection([BinaryAccuracy(), torchmetrics.MeanMetric()])["BinaryAccuracy"]
metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]))
assert metric.compute() == 0.5 and isinstance(metric, torchmetrics.Metric)
assert torchmetrics.functional.accuracy(torch.tensor([1]), torch.tensor([1]), task="binary") == 1
""",
    "the text of a line": """
import inspect, linecache
linecache.cache["<program>"] = (1, None, ["def f(): return inspect.getframeinfo(inspect.currentframe())"], "<program>")
exec(compile("def f(): return inspect.getframeinfo(inspect.currentframe())", "<program>", "exec"))
assert f().code_context == ["def f(): return inspect.getframeinfo(inspect.currentframe())"]
""",
    "a plot of a metric": """
import matplotlib
matplotlib.use("Agg")
from torchmetrics import MeanMetric
metric = MeanMetric()
metric.update(2.0)
assert len(metric.plot()) == 2
""",
}

SHORT = ("metrics", "an optimizer", "a plot of a metric")


def test_what_a_command_leaves_behind_is_finalized(tmp_path):
    code = f"""
from pathlib import Path
from runlab import quick_start
quick_start()
class Logger:
    def __init__(self):
        self.itself = self
    def __del__(self):
        Path({str(tmp_path / "log.txt")!r}).write_text("the last line")
def main():
    Logger()
main()
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log.txt").read_text() == "the last line"


def run(code):
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("use", [pytest.param(use, marks=[pytest.mark.slow] * (use not in SHORT)) for use in LATER])
def test_what_waits_is_there_when_it_is_used(use):
    done = run(START + LATER[use])
    assert done.returncode == 0, done.stderr


def test_another_release_that_needs_them_gets_them():
    code = """
import sys
from runlab import quick_start
sys.modules["torchmetrics.collections"] = None  # as if it were elsewhere
quick_start()
assert "pytorch_lightning" not in sys.modules
import torch, torchmetrics, pytorch_lightning
assert "eval_frame" in vars(torch._dynamo) and torchmetrics.MetricCollection and torchmetrics.functional
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
