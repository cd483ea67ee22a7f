"""The default experiment at full length against an independent loop from the same seed."""

import json

import numpy as np
import pytest
import torch

from ngram_mlp.cli import train
from tests.conftest import PROJECT
from tests.reference.notebook import Notebook, dataset


@pytest.mark.slow
def test_the_default_run_replays_the_notebooks_loop_with_the_fused_engine(names, tmp_path):
    train.main(PROJECT / "configs" / "default.yaml", ["--runs_dir", str(tmp_path), "--data.corpus", "names"])
    folder = tmp_path / "default" / "version_0"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["engine"] == "fused"
    ((X, Y), (Xval, Yval), _), vocab_size = dataset(names)
    torch.set_num_threads(1)  # so small a network gains nothing from more
    notebook = Notebook(2147483647, vocab_size, batch_norm=True)
    expected = np.array(notebook.train(X, Y, 200_000))
    losses = np.load(folder / "losses.npy")
    np.testing.assert_allclose(losses[:1_000], expected[:1_000], rtol=1e-4)
    np.testing.assert_allclose(losses[::10_000], expected[::10_000], atol=5e-5)
    assert metrics["val"]["loss"] == pytest.approx(notebook.split_loss(Xval, Yval), abs=5e-6)
    assert metrics["train"]["loss"] == pytest.approx(notebook.split_loss(X, Y), abs=5e-6)
    assert 2.10 < metrics["val"]["loss"] < 2.12
