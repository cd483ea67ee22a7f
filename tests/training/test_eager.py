import pytest
import torch

from ngram_mlp.models import MLP, BatchNormMLP
from tests.reference.notebook import Notebook, dataset
from tests.training.runs import EagerEngine, Run

UPDATES = 2_000


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_losses_and_weights_equal_the_notebooks_loop(norm, sample_words):
    run = Run(EagerEngine, model_class=BatchNormMLP if norm == "batch" else MLP)
    losses = run.train(UPDATES)
    ((X, Y), (Xval, Yval), _), vocab_size = dataset(sample_words)
    notebook = Notebook(42, vocab_size, batch_norm=norm == "batch")
    expected = notebook.train(X, Y, UPDATES, drop_at=1_500)
    torch.testing.assert_close(losses, torch.tensor(expected), rtol=1e-5, atol=0)
    run.model.eval()
    with torch.no_grad():
        val_loss = torch.nn.functional.cross_entropy(run.model(Xval), Yval).item()
    assert val_loss == pytest.approx(notebook.split_loss(Xval, Yval), rel=1e-5)


def test_hooks_on_the_optimizer_are_called():
    calls = []

    def optimizer(parameters):
        sgd = torch.optim.SGD(parameters, lr=0.1)
        sgd.register_step_post_hook(lambda *_: calls.append(1))
        return sgd

    Run(EagerEngine, optimizer=optimizer).train(3)
    assert len(calls) == 3
